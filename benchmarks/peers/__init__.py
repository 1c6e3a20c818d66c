"""lcmcore compared with its peers: the same img2img by diffusers, optimum and lcmcore."""
