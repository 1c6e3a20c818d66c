"""The RKNN runtime: Rockchip NPUs through rknn-toolkit-lite2."""
