# The compiled module (csrc/binding.cpp), as far as Python asks it; its operators are in `torch.ops.grm_kernels`.

#: The compiler that it was built with.
compiler: str
#: The torch that it was built with.
built_with_torch: str
#: Compute capabilities that CUDA code was compiled for, such as "8.0 9.0a"; missing without CUDA.
cuda_architectures: str

def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def set_instruction_set(name: str) -> None: ...
