"""What `lcm build onnx` exports: a checkpoint's folder or file, with LoRAs, VAE and embeddings."""
