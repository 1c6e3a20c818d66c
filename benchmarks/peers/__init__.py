"""lcmcore beside its peers: the same img2img by diffusers, by optimum and by lcmcore."""
