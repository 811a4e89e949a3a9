"""One contest of quantization methods: the same model, scenes, layers and figures for every one of them."""
