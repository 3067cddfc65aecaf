"""The tar in Model Library Format: its keys, its bytes, its parameters, and the C interface in it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import json
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from projects import project, require
from tools import missing, require_program

from mcugen.boards import load_board
from mcugen.errors import InternalError
from mcugen.ir import Board
from mcugen.microtvm.mlf import ModelLibrary, OperatorFunction, Tensor, params_blob, write_tar
from mcugen.rendering import Provenance, fill
from mcugen.toolchain import build

HEADER = "codegen/host/include/tvmgen_default.h"
PARAMS: dict[str, NDArray[np.integer]] = {
    "z": np.arange(2, dtype=np.int32),
    "a": np.arange(6, dtype=np.int8).reshape(2, 3),
    "codes": np.array([[[-300]], [[2]]], np.int16),
    "packed": np.array([0xFFFFFFFF], np.uint32),
    "one": np.array(200, np.uint8),
}
LIBRARY = ModelLibrary(
    name="default",
    inputs=(Tensor("token", "int32", (1,)),),
    outputs=(Tensor("logits", "int32", (1, 512)), Tensor("next", "int16", (3,))),
    workspace_bytes=4108,
    constants_bytes=77,
    functions=(OperatorFunction("tvmgen_default_embed_s16_512x64"), OperatorFunction("tvmgen_default_rest", 12)),
    target="c -keys=arm_cpu,cpu -mcpu=cortex-m4",
    files={
        "src/default.tir": b"# from tvm.script\n",
        "codegen/host/src/default_lib1.c": b"int one;\n",
        HEADER: b"/* header */\n",
        "codegen/host/src/default_lib0.c": b"x" * 1500,  # several blocks
    },
    params=PARAMS,
)


def members(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr]


# ---------------------------------------------------------------- metadata.json


def test_metadata_has_the_keys_that_tvm_reads() -> None:
    text = members(write_tar(LIBRARY))["./metadata.json"].decode()
    main = {
        "device": 1,
        "workspace_size_bytes": 4108,
        "constants_size_bytes": 77,
        "io_size_bytes": 4 + 2048 + 6,
        "inputs": {"token": {"dtype": "int32", "size": 4}},
        "outputs": {"logits": {"dtype": "int32", "size": 2048}, "next": {"dtype": "int16", "size": 6}},
    }
    operator_functions = [
        {"function_name": "tvmgen_default_embed_s16_512x64", "workspace": [{"device": 1, "workspace_size_bytes": 0}]},
        {"function_name": "tvmgen_default_rest", "workspace": [{"device": 1, "workspace_size_bytes": 12}]},
    ]
    expected = {
        "version": 7,
        "modules": {
            "default": {
                "model_name": "default",
                "export_datetime": "1970-01-01 00:00:00Z",
                "executors": ["aot"],
                "style": "full-model",
                "target": ["c -keys=arm_cpu,cpu -mcpu=cortex-m4"],
                "memory": {"functions": {"main": [main], "operator_functions": operator_functions}},
            }
        },
    }
    assert json.loads(text) == expected
    assert text == json.dumps(expected, indent=2, sort_keys=True) + "\n"


def test_the_name_of_the_module_names_its_files() -> None:
    files = {**LIBRARY.files, "codegen/host/include/tvmgen_home.h": b""}
    found = members(write_tar(dataclasses.replace(LIBRARY, name="home", files=files)))
    metadata = json.loads(found["./metadata.json"])
    assert [(name, module["model_name"]) for name, module in metadata["modules"].items()] == [("home", "home")]
    assert "./parameters/home.params" in found


# ---------------------------------------------------------------- the bytes


def test_the_same_library_gives_the_same_bytes() -> None:
    tar = write_tar(LIBRARY)
    files, params = list(LIBRARY.files.items()), list(PARAMS.items())
    turned = dataclasses.replace(LIBRARY, files=dict(files[::-1]), params=dict(params[::-1]))
    assert hashlib.sha256(write_tar(turned)).hexdigest() == hashlib.sha256(tar).hexdigest()
    # what another day, user and machine must write, too
    assert hashlib.sha256(tar).hexdigest() == "8442123aebdac90689ded7224ad69798b265e04b43548ae851fa05e295aa25ed"


def test_members_are_sorted_and_say_nothing_of_who_wrote_them() -> None:
    with tarfile.open(fileobj=io.BytesIO(write_tar(LIBRARY)), mode="r:") as tar:
        found = tar.getmembers()
    assert [member.name for member in found] == [
        "./codegen/host/include/tvmgen_default.h",
        "./codegen/host/src/default_lib0.c",
        "./codegen/host/src/default_lib1.c",
        "./metadata.json",
        "./parameters/default.params",
        "./src/default.tir",
    ]
    for member in found:
        assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644), member.name
        assert (member.uname, member.gname, member.type) == ("root", "root", tarfile.REGTYPE), member.name


def test_the_format_is_ustar() -> None:
    tar = write_tar(LIBRARY)
    assert tar[257:265] == b"ustar\x0000"
    assert len(tar) % 10240 == 0
    long = f"src/{'a' * 60}/{'b' * 60}"  # where other formats add a header of their own
    tar = write_tar(dataclasses.replace(LIBRARY, files={**LIBRARY.files, long: b""}))
    assert f"./{long}" in members(tar)
    assert b"PaxHeader" not in tar and b"@LongLink" not in tar


def test_python_and_gnu_tar_unpack_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "library.tar").write_bytes(write_tar(LIBRARY))
    python, gnu = tmp_path / "python", tmp_path / "gnu"
    with tarfile.open(tmp_path / "library.tar") as tar:
        tar.extractall(python, filter="data")
    gnu.mkdir()
    command = [require_program("tar"), "-xf", "library.tar", "-C", "gnu"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout + result.stderr == ""

    def files(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert files(python) == files(gnu)
    assert {path: content for path, content in files(gnu).items() if path in LIBRARY.files} == LIBRARY.files


# ---------------------------------------------------------------- default.params


class Reader:
    """Takes little-endian fields from the front of a blob."""

    def __init__(self, blob: bytes) -> None:
        self.blob, self.at = blob, 0

    def take(self, size: int) -> bytes:
        assert self.at + size <= len(self.blob), "the blob ends early"
        self.at += size
        return self.blob[self.at - size : self.at]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")


def read_params(blob: bytes) -> dict[str, NDArray[np.generic]]:
    """A file of parameters, field by field as TVM's LoadParams takes them."""
    reader = Reader(blob)
    assert reader.take(8).hex() == "b79c04054f8de5f7"
    assert reader.integer(8) == 0
    names = [reader.take(reader.integer(8)).decode() for _ in range(reader.integer(8))]
    assert reader.integer(8) == len(names)
    arrays = []
    for _ in names:
        assert reader.take(8).hex() == "3fa1b496f0405edd"
        assert reader.integer(8) == 0
        assert [reader.integer(4), reader.integer(4)] == [1, 0]  # CPU 0
        dimensions = reader.integer(4)
        code, bits, lanes = reader.integer(1), reader.integer(1), reader.integer(2)
        assert lanes == 1
        shape = [reader.integer(8) for _ in range(dimensions)]
        content = reader.take(reader.integer(8))
        dtype = np.dtype({0: f"<i{bits // 8}", 1: f"<u{bits // 8}"}[code])
        arrays.append(np.frombuffer(content, dtype).reshape(shape))
    assert reader.at == len(blob)
    return dict(zip(names, arrays, strict=True))


def test_parameters_are_read_back() -> None:
    found = read_params(members(write_tar(LIBRARY))["./parameters/default.params"])
    assert list(found) == sorted(PARAMS)
    for name, values in PARAMS.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape), name
        np.testing.assert_array_equal(found[name], values)


def test_parameters_lie_as_they_are_not_as_they_were_made() -> None:
    """Neither strides nor a big-endian type reach the file."""
    plain = np.arange(12, dtype=np.int16).reshape(3, 4)
    for other in (np.asfortranarray(plain), plain.astype(">i2"), np.repeat(plain, 2, axis=1)[:, ::2]):
        assert params_blob({"a": other}) == params_blob({"a": plain})


def test_parameters_are_the_bytes_that_tvm_writes() -> None:
    """Of tvm.runtime.save_param_dict in Apache TVM 0.27 and relay.save_param_dict in TVM 0.16: the same bytes."""
    expected = (
        "b79c04054f8de5f7 0000000000000000 0200000000000000 0100000000000000 61 0100000000000000 7a 0200000000000000"
        "3fa1b496f0405edd 0000000000000000 01000000 00000000 02000000 00 08 0100 0200000000000000 0300000000000000"
        "0600000000000000 000102030405"
        "3fa1b496f0405edd 0000000000000000 01000000 00000000 01000000 00 20 0100 0200000000000000"
        "0800000000000000 00000000 01000000"
    )
    assert params_blob({name: PARAMS[name] for name in ("a", "z")}) == bytes.fromhex(expected)
    assert params_blob({}) == struct.pack("<4Q", 0xF7E58D4F05049CB7, 0, 0, 0)


WITH_TVM = """
import json, sys, tvm
blob = sys.stdin.buffer.read()
found = {name: tensor.numpy() for name, tensor in tvm.runtime.load_param_dict(blob).items()}
print(json.dumps({name: [str(a.dtype), list(a.shape), a.ravel().tolist()] for name, a in found.items()}))
"""


def test_tvm_reads_the_parameters() -> None:
    if importlib.util.find_spec("tvm") is None:
        missing("apache-tvm is not installed; pip install 'mcugen[microtvm]'")
    result = subprocess.run(
        [sys.executable, "-c", WITH_TVM], input=params_blob(PARAMS), capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr.decode()
    assert json.loads(result.stdout) == {
        name: [values.dtype.name, list(values.shape), values.ravel().tolist()] for name, values in PARAMS.items()
    }


# ---------------------------------------------------------------- what a library must be


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"name": "home"}, "there is no codegen/host/include/tvmgen_home.h"),
        (
            {"files": {**LIBRARY.files, "metadata.json": b"{}"}},
            "metadata.json lies in neither codegen/host/ nor src/",
        ),
        (
            {"files": {**LIBRARY.files, "parameters/default.params": b""}},
            "parameters/default.params lies in neither codegen/host/ nor src/",
        ),
        ({"outputs": LIBRARY.inputs}, "two have the name of tensor token"),
        ({"functions": LIBRARY.functions[1:] * 2}, "two have the name of function tvmgen_default_rest"),
    ],
)
def test_a_library_that_does_not_hold_together_is_our_defect(changes: dict[str, object], what: str) -> None:
    library = dataclasses.replace(LIBRARY, **changes)  # type: ignore[arg-type]
    with pytest.raises(InternalError) as caught:
        write_tar(library)
    assert str(caught.value) == (
        f"{what}\n  where: Model Library Format of {library.name}\n"
        "  try:   this is a defect of mcugen: please report it with the command line"
    )


# ---------------------------------------------------------------- the C interface

VARIABLES = {
    "provenance": Provenance("0.1.0", "mcugen build home --target microtvm", "9c1e", "44d0"),
    "workspace_bytes": 4108,
    "logits_offset": 2048,
    "vocab_size": 512,
    "context": 256,
    "pool": "workspace",
}

MODEL = b"""#include "tvmgen_default.h"

int32_t tvmgen_default_run(struct tvmgen_default_inputs *inputs, struct tvmgen_default_outputs *outputs,
                           struct tvmgen_default_workspace_pools *workspace_pools)
{
    uint8_t *const runs = workspace_pools->workspace;
    int32_t *const logits = outputs->logits;
    *runs = (uint8_t)(*runs + 1);
    logits[TVMGEN_DEFAULT_VOCAB_SIZE - 1] = *(const int32_t *)inputs->token + *runs;
    return 0;
}

void tvmgen_default_reset(struct tvmgen_default_workspace_pools *workspace_pools)
{
    uint8_t *const runs = workspace_pools->workspace;
    *runs = 0;
}
"""

# The application, in C and in C++ alike; the header twice.
APPLICATION = b"""#include "tvmgen_default.h"
#include "tvmgen_default.h"

int32_t application(void);
int32_t application(void)
{
    static uint8_t workspace[TVMGEN_DEFAULT_WORKSPACE_WORKSPACE_POOL_SIZE] __attribute__((aligned(16)));
    static uint8_t logits[TVMGEN_DEFAULT_LOGITS_SIZE] __attribute__((aligned(4)));
    int32_t token = 40;
    struct tvmgen_default_inputs inputs = { &token };
    struct tvmgen_default_outputs outputs = { logits };
    struct tvmgen_default_workspace_pools pools = { workspace };
    workspace[0] = 99;
    tvmgen_default_reset(&pools);
    return tvmgen_default_run(&inputs, &outputs, &pools) + tvmgen_default_run(&inputs, &outputs, &pools) +
           logits[TVMGEN_DEFAULT_LOGITS_SIZE - TVMGEN_DEFAULT_TOKEN_SIZE];
}
"""
MAIN = b"""#include <stdint.h>

int32_t application(void);
int main(void);
int main(void)
{
    return (int)application();
}
"""

HOST, NUCLEO = load_board("host"), load_board("nucleo-f446re")


def header() -> bytes:
    return fill({"microtvm/tvmgen_default.h.j2": "h"}, VARIABLES)["h"]


@pytest.mark.parametrize("language", ["c", "cc"])
@pytest.mark.parametrize("kind", ["gcc", "zig"])
@pytest.mark.parametrize("board", [HOST, NUCLEO], ids=["host", "nucleo"])
def test_the_interface_compiles_without_a_warning(board: Board, kind: str, language: str, tmp_path: Path) -> None:
    made = project(board, main=MAIN, default_lib0=MODEL)
    application = APPLICATION if language == "c" else APPLICATION.replace(b"int32_t appl", b'extern "C" int32_t appl')
    files = {**made.files, HEADER: header(), f"application.{language}": application}
    made = dataclasses.replace(
        made,
        files=files,
        sources=(*made.sources, f"application.{language}"),
        include_dirs=(*made.include_dirs, str(Path(HEADER).parent)),
    )
    image = build(made, require(kind, board), cache_dir=tmp_path / "cache").image
    if board is HOST:
        (tmp_path / "demo").write_bytes(image)
        (tmp_path / "demo").chmod(0o755)
        assert subprocess.run([tmp_path / "demo"], check=False).returncode == 40 + 2


def test_the_interface_has_the_names_that_tvm_gives() -> None:
    """The lines of a header that TVM 0.16 generates for these tensors and a pool of this name, but for spaces."""
    text = " ".join(header().decode().replace("*", " * ").split())
    for line in (
        "#ifndef TVMGEN_DEFAULT_H_ #define TVMGEN_DEFAULT_H_",
        "#define TVMGEN_DEFAULT_TOKEN_SIZE 4",
        "#define TVMGEN_DEFAULT_WORKSPACE_SIZE 4108",
        "struct tvmgen_default_inputs { void * token;",
        "struct tvmgen_default_outputs { void * logits;",
        "struct tvmgen_default_workspace_pools { void * workspace;",
        "int32_t tvmgen_default_run( struct tvmgen_default_inputs * inputs, "
        "struct tvmgen_default_outputs * outputs, struct tvmgen_default_workspace_pools * workspace_pools );",
    ):
        assert line.replace("( ", "(").replace(" )", ")") in text, line
    for name in ("LOGITS_SIZE", "WORKSPACE_WORKSPACE_POOL_SIZE"):
        assert f"#define TVMGEN_DEFAULT_{name} " in text


# ---------------------------------------------------------------- README.md


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize("intrinsics", [False, True])
def test_the_readme_of_the_folder_can_be_rendered(on_host: bool, intrinsics: bool) -> None:
    variables = {
        **VARIABLES, "name": "home", "prefix": "home", "board_name": "nucleo-f446re", "flash_origin": "0x08000000",
        "is_host": on_host, "has_intrinsics": intrinsics, "has_assembly": intrinsics, "tvm_version": "0.27.0.post1",
    }  # fmt: skip
    text = fill({"microtvm/README.md.j2": "README.md"}, variables)["README.md"].decode()
    assert text.startswith("# home for ") and "\n\n\n" not in text
    assert ("firmware.hex" in text, ".S" in text) == (not on_host, intrinsics)
