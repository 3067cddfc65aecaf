"""ModelLibrary -> the bytes of a tar in TVM's Model Library Format, version 7: the same library gives the same bytes.

Paths and keys are those of python/tvm/micro/model_library_format.py as TVM 0.16 has it, for one module of the AOT
executor with the C interface. Version 7 is where all keys moved below "modules", by module name
(apache/tvm-rfcs, 0076). Who reads what:

* TVMCPackage (python/tvm/driver/tvmc/model.py): metadata.json's modules, of which there must be one, its executors,
  of which there must be one, and parameters/<name>.params. Nothing is hashed, and no version compared.
* The templates behind the Project API: Zephyr's takes codegen/host/src and codegen/host/include; Arduino's the .c
  files of codegen/host/src, "style" and the first "workspace_size_bytes" (apps/microtvm).
* mlf_extract_workspace_size_bytes (python/tvm/micro/testing/utils.py): a member "./metadata.json", with the dot.
"""

from __future__ import annotations

import io
import json
import math
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InternalError

VERSION = 7
INCLUDE, SOURCE = "codegen/host/include", "codegen/host/src"
ROOTS = ("codegen/host/", "src/")  # where a library's own files may lie

_EXPORTED = "1970-01-01 00:00:00Z"  # of metadata.json and of every file: no date of the day
_CPU = 1  # kDLCPU in DLPack: where the functions of target "c" run
_PARAMS_MAGIC = 0xF7E58D4F05049CB7  # kTVMNDArrayListMagic, src/runtime/file_utils.h
_ARRAY_MAGIC = 0xDD5E40F096B4A13F  # kTVMNDArrayMagic, include/tvm/runtime/ndarray.h
_TYPE_CODES = {"i": 0, "u": 1}  # DLPack: kDLInt, kDLUInt, by numpy's kind


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of the model: a member of tvmgen_<name>_inputs or _outputs. dtype: numpy's name of it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class OperatorFunction:
    """A function of the kernels, by its C name, and the bytes of workspace that it needs for itself."""

    name: str
    workspace_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class ModelLibrary:
    """What the tar holds.

    name: of the module, in TVM "default" where the user gives none; the C names begin with tvmgen_<name>.
    workspace_bytes: of the pool that the application owns. constants_bytes: of the arrays in the C files.
    target: TVM's target string, as "c -keys=arm_cpu,cpu -mcpu=cortex-m4".
    files: path below codegen/host/ or src/ -> content, the interface's header among them.
    params: what default.params holds: integers only. Empty where all constants are in the C files, as TVM leaves it.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    workspace_bytes: int
    constants_bytes: int
    functions: tuple[OperatorFunction, ...]
    target: str
    files: Mapping[str, bytes]
    params: Mapping[str, NDArray[np.integer]]

    @property
    def header(self) -> str:
        """The path of the C interface."""
        return f"{INCLUDE}/tvmgen_{self.name}.h"


def check_library(library: ModelLibrary) -> None:
    """Raise InternalError where a file is missing, out of place, or a name is there twice."""
    where = f"Model Library Format of {library.name}"
    if library.header not in library.files:
        raise InternalError(f"there is no {library.header}", where=where)
    for path in sorted(library.files):
        if not path.startswith(ROOTS):
            raise InternalError(f"{path} lies in neither {' nor '.join(ROOTS)}", where=where)
    for kind, names in (
        ("tensor", [tensor.name for tensor in (*library.inputs, *library.outputs)]),
        ("function", [function.name for function in library.functions]),
    ):
        for name in sorted(set(names)):
            if names.count(name) > 1:
                raise InternalError(f"two have the name of {kind} {name}", where=where)


def metadata(library: ModelLibrary) -> dict[str, object]:
    """metadata.json; sizes in bytes. One device, so that each list of devices has one entry."""

    def tensors(those: tuple[Tensor, ...]) -> dict[str, object]:
        return {tensor.name: {"dtype": tensor.dtype, "size": tensor.size} for tensor in those}

    main = {
        "device": _CPU,
        "workspace_size_bytes": library.workspace_bytes,
        "constants_size_bytes": library.constants_bytes,
        "io_size_bytes": sum(tensor.size for tensor in (*library.inputs, *library.outputs)),
        "inputs": tensors(library.inputs),
        "outputs": tensors(library.outputs),
    }
    functions = [
        {
            "function_name": function.name,
            "workspace": [{"device": _CPU, "workspace_size_bytes": function.workspace_bytes}],
        }
        for function in library.functions
    ]
    module = {
        "model_name": library.name,
        "export_datetime": _EXPORTED,
        "executors": ["aot"],
        "style": "full-model",
        "target": [library.target],
        # no "external_dependencies": it would name TVM's C runtime, which nothing here calls
        "memory": {"functions": {"main": [main], "operator_functions": functions}},
    }
    return {"version": VERSION, "modules": {library.name: module}}


def params_blob(params: Mapping[str, NDArray[np.integer]]) -> bytes:
    """Arrays as tvm.runtime.save_param_dict writes them, by name; everything little-endian.

    Sources: SaveParams in src/runtime/file_utils.cc, SaveDLTensor in include/tvm/runtime/ndarray.h.
    """
    names = sorted(params)
    parts = [struct.pack("<QQQ", _PARAMS_MAGIC, 0, len(names))]  # magic, reserved, names
    parts += [struct.pack("<Q", len(name.encode())) + name.encode() for name in names]
    parts.append(struct.pack("<Q", len(names)))  # arrays
    for name in names:
        values = params[name]
        dtype = values.dtype.newbyteorder("<")
        # magic, reserved, device and its number, dimensions, type: code, bits, lanes
        head = (_ARRAY_MAGIC, 0, _CPU, 0, values.ndim, _TYPE_CODES[dtype.kind], 8 * dtype.itemsize, 1)
        parts.append(struct.pack("<QQiiiBBH", *head))
        parts.append(struct.pack(f"<{values.ndim}qq", *values.shape, values.nbytes))
        parts.append(values.astype(dtype).tobytes())
    return b"".join(parts)


def write_tar(library: ModelLibrary) -> bytes:
    """The tar, uncompressed, as Project API servers open it. Raises InternalError (check_library)."""
    check_library(library)
    files = {
        **library.files,
        "metadata.json": (json.dumps(metadata(library), indent=2, sort_keys=True) + "\n").encode(),
        f"parameters/{library.name}.params": params_blob(library.params),
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(files):
            member = tarfile.TarInfo(f"./{path}")  # mtime, uid and gid are 0, the mode 0644
            member.uname = member.gname = "root"
            member.size = len(files[path])
            tar.addfile(member, io.BytesIO(files[path]))
    return out.getvalue()
