"""The microTVM target: the same Graph, its kernels compiled from TIR by Apache TVM, in a Model Library Format tar."""
