"""The TFLite Micro target: a .tflite whose ops are the standalone target's kernels, run by TFLM's interpreter."""
