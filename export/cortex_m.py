"""Build C files with their graph for a Cortex-M and run them in QEMU: codes, flash, RAM, stack and instructions.

QEMU emulates the instruction set, not the pipeline or the memory: with `-icount shift=0` its clock moves by one
nanosecond an instruction, which the SysTick timer of the board (25 MHz) counts in steps of 40. Cycles are not measured.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lpgnas.errors import ExportError
from lpgnas.export.c_code import HEADER, SOURCE, CSource
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.quantize import SparseCodes
from lpgnas.requantize import AnyCodes

COMPILER, SIZE, EMULATOR = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
BOARDS = {"cortex-m3": "mps2-an385", "cortex-m4": "mps2-an386", "cortex-m7": "mps2-an500"}
"""QEMU's board of each processor; all have 4 MiB of flash and of RAM at the same addresses."""
FLAGS = ("-std=c99", "-mthumb", "-mfloat-abi=soft", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion")
INSTRUCTIONS_PER_TICK = 40
"""Nanoseconds of a tick at 25 MHz."""
STACK_BYTES = 8192
_LIMIT_SECONDS = 300


@dataclass(frozen=True)
class MachineRun:
    """What a run on the emulated machine showed.

    Attributes:
        codes: of the logits, [N, C].
        code_bytes: instructions of the model (sections `.text*` of its object file).
        constant_bytes: weights, tables and the graph (sections `.rodata*` of its object file).
        flash_bytes: text and data of the whole ELF file: the model, the input, the start-up code.
        ram_bytes: data and bss of the whole ELF file; the arena is most of it, the stack is not in it.
        stack_bytes: the deepest use of the stack by the call.
        instructions: executed by the call, in steps of 40.
    """

    codes: npt.NDArray[np.int64]
    code_bytes: int
    constant_bytes: int
    flash_bytes: int
    ram_bytes: int
    stack_bytes: int
    instructions: int


def missing_tools() -> str:
    """Which tools are not on the PATH; empty where all are."""
    return ", ".join(name for name in (COMPILER, SIZE, EMULATOR) if shutil.which(name) is None)


def run_on_cortex_m(
    program: IntegerProgram,
    source: CSource,
    codes: AnyCodes | SparseCodes,
    *,
    processor: str = "cortex-m3",
    optimize: str = "-O2",
) -> MachineRun:
    """Build files that hold their graph, put `codes` [N, F] of the input beside them, and run them once.

    Raises:
        ExportError: a tool is missing or fails, the files take their graph as an argument, or their code refuses.
    """
    if b"LPGNAS_CONSTANT_GRAPH" not in source.header:
        raise ExportError("an emulated Cortex-M runs files that hold their graph; export them with a graph")
    if missing := missing_tools():
        raise ExportError(f"not on the PATH: {missing}; install Debian's gcc-arm-none-eabi and qemu-system-arm")
    with tempfile.TemporaryDirectory(prefix="lpgnas-arm-") as name:
        folder = Path(name)
        for file, content in {**source.files(), "main.c": _main(codes).encode(), "board.ld": _LINKER.encode()}.items():
            (folder / file).write_bytes(content)
        flags = [f"-mcpu={processor}", optimize, *FLAGS]
        for file in (SOURCE, "main.c"):
            _call([COMPILER, *flags, "-c", "-o", f"{folder / file}.o", str(folder / file)])
        elf = folder / "image.elf"
        objects = [f"{folder / file}.o" for file in (SOURCE, "main.c")]
        linked = ["-nostartfiles", "--specs=nano.specs", "-T", str(folder / "board.ld"), "-Wl,--gc-sections"]
        _call([COMPILER, *flags, *linked, "-o", str(elf), *objects])
        sections = _sections(Path(objects[0]))
        text, data, bss = (int(field) for field in _call([SIZE, str(elf)]).splitlines()[1].split()[:3])
        status, ticks, stack, made = _printed(_emulate(elf, processor))
    if status:
        raise ExportError(f"the code on the emulated {processor} returned the status {status}")
    return MachineRun(
        codes=np.array(made, dtype=np.int64).reshape(-1, program.num_classes),
        code_bytes=sum(size for section, size in sections.items() if section.startswith(".text")),
        constant_bytes=sum(size for section, size in sections.items() if section.startswith(".rodata")),
        flash_bytes=text + data,
        ram_bytes=data + bss,
        stack_bytes=stack,
        instructions=ticks * INSTRUCTIONS_PER_TICK,
    )


def _call(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_LIMIT_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"{command[0]} could not be run: {error}") from error
    if done.returncode:
        raise ExportError(f"{command[0]} failed: {done.stderr.decode(errors='replace')[:2000]}")
    return done.stdout.decode()


def _sections(path: Path) -> dict[str, int]:
    rows = [line.split() for line in _call([SIZE, "-A", str(path)]).splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 3 and row[0].startswith(".")}


def _emulate(elf: Path, processor: str) -> str:
    if processor not in BOARDS:
        raise ExportError(f"no board for {processor!r}; choose one of {', '.join(BOARDS)}")
    board = ["-machine", BOARDS[processor], "-nographic", "-monitor", "none", "-serial", "none"]
    console = ["-chardev", "stdio,id=out", "-semihosting-config", "enable=on,target=native,chardev=out"]
    return _call([EMULATOR, *board, *console, "-icount", "shift=0", "-kernel", str(elf)])


def _printed(text: str) -> tuple[int, int, int, list[int]]:
    """Status, ticks, stack bytes and codes that the image printed."""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if not {"status", "ticks", "stack", "codes"} <= set(lines):
        raise ExportError(f"the emulated machine ended early: it printed {text[:200]!r}")
    return (
        int(lines["status"]),
        int(lines["ticks"]),
        int(lines["stack"]),
        [int(code) for code in lines["codes"].split()],
    )


def _array(kind: str, name: str, values: npt.NDArray[np.integer]) -> str:
    listed = ", ".join(map(str, values.ravel().tolist())) or "0"
    return f"static const {kind} {name}[] = {{ {listed} }};"


def _main(codes: AnyCodes | SparseCodes) -> str:
    """The program around the model: its input as constants, start-up code, and what is printed."""
    if isinstance(codes, SparseCodes):
        arrays = [
            _array("int32_t", "rows", codes.indptr),
            _array("int32_t", "columns", codes.indices),
            _array("lpgnas_code", "entries", codes.codes),
        ]
        given = f"{{ NULL, {codes.indices.size}, rows, columns, entries }}"
    else:
        arrays, given = [_array("lpgnas_code", "dense", codes)], "{ dense, 0, NULL, NULL, NULL }"
    return _MAIN.replace("@HEADER@", HEADER).replace("@ARRAYS@", "\n".join(arrays)).replace("@INPUT@", given)


_MAIN = r"""
#include "@HEADER@"

@ARRAYS@

extern uint32_t data_from, data_begin, data_end, bss_begin, bss_end, stack_begin, stack_end;
static uint64_t arena[(LPGNAS_ARENA_BYTES + 7) / 8];
static volatile uint32_t wraps;

static int32_t semihost(int32_t what, const void *argument)
{
    register int32_t r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void print_number(const char *name, int32_t number)
{
    char text[13];
    char *at = text + 12;
    uint32_t left = number < 0 ? 0u - (uint32_t)number : (uint32_t)number;
    *at = 0;
    do {
        *--at = (char)('0' + left % 10);
        left /= 10;
    } while (left != 0);
    if (number < 0)
        *--at = '-';
    semihost(4, name);
    semihost(4, at);
}

int main(void)
{
    volatile uint32_t *const control = (uint32_t *)0xe000e010u;
    volatile uint32_t *const reload = (uint32_t *)0xe000e014u;
    volatile uint32_t *const value = (uint32_t *)0xe000e018u;
    const lpgnas_input input = @INPUT@;
    const lpgnas_logit *logits = NULL;
    const uint32_t *untouched = &stack_begin;
    uint32_t before, after;
    lpgnas_status status;
    *reload = 0xffffffu;
    *value = 0;
    *control = 7;
    while (*value == 0)
        ;
    wraps = 0;
    before = *value;
    status = lpgnas_run(&input, arena, sizeof arena, &logits);
    after = *value;
    while (*untouched == 0x5a5a5a5au)
        ++untouched;
    print_number("status:", (int32_t)status);
    print_number("\nticks:", (int32_t)(wraps * 0x1000000u + before - after));
    print_number("\nstack:", (int32_t)(4 * (&stack_end - untouched)));
    semihost(4, "\ncodes:");
    if (status == LPGNAS_OK)
        for (int32_t k = 0; k < LPGNAS_NUM_NODES * LPGNAS_NUM_CLASSES; ++k)
            print_number(" ", logits[k]);
    semihost(4, "\n");
    return 0;
}

void wrap(void);
void wrap(void)
{
    ++wraps;
}

void reset(void);
void reset(void)
{
    const uint32_t *from = &data_from;
    for (volatile uint32_t *to = &data_begin; to < &data_end; ++to)
        *to = *from++;
    for (volatile uint32_t *to = &bss_begin; to < &bss_end; ++to)
        *to = 0;
    for (volatile uint32_t *to = &stack_begin; (uintptr_t)to < (uintptr_t)&from - 64; ++to)
        *to = 0x5a5a5a5au;
    main();
    semihost(0x18, (const void *)0x20026);
    for (;;)
        ;
}

extern const uintptr_t vectors[];
const uintptr_t vectors[16] __attribute__((section(".vectors"))) = {
    (uintptr_t)&stack_end, (uintptr_t)&reset, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uintptr_t)&wrap
};
"""

_LINKER = f"""
ENTRY(reset)
MEMORY {{
    flash (rx) : ORIGIN = 0x00000000, LENGTH = 4M
    ram (rwx) : ORIGIN = 0x20000000, LENGTH = 4M
}}
SECTIONS {{
    .text : {{ KEEP(*(.vectors)) *(.text*) *(.rodata*) . = ALIGN(8); }} > flash
    .ARM.exidx : {{ *(.ARM.exidx*) }} > flash
    data_from = LOADADDR(.data);
    .data : {{ data_begin = .; *(.data*) . = ALIGN(8); data_end = .; }} > ram AT > flash
    .bss (NOLOAD) : {{ bss_begin = .; *(.bss*) *(COMMON) . = ALIGN(8); bss_end = .; }} > ram
    stack_begin = ALIGN(8);
    stack_end = stack_begin + {STACK_BYTES};
}}
"""
