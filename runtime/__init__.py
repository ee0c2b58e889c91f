"""Running the files: the llama.cpp engine and the ONNX Runtime classifier."""
