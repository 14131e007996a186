"""Kernels and bytes of a compiled program, read from its text."""

import pytest

from ipcl_jax.benchmarks.program import elements, moved, read_program, size

TEXT = """\
HloModule jit_f, is_scheduled=true

%rows (p.0: bf16[8,4], p.1: f32[]) -> f32[2,4] {
  %p.0 = bf16[8,4]{1,0} parameter(0)
  %p.1 = f32[] parameter(1)
  %wide = f32[8,4]{1,0} convert(%p.0)
  %taken = f32[2,4]{1,0} slice(%wide), slice={[0:2], [0:4]}
  %many = f32[2,4]{1,0} broadcast(%p.1), dimensions={}
  ROOT %product = f32[2,4]{1,0} multiply(%taken, %many)
}

%put (p.2: f32[100,4], p.3: f32[1,4], p.4: s32[]) -> f32[100,4] {
  %p.2 = f32[100,4]{1,0} parameter(0)
  %p.3 = f32[1,4]{1,0} parameter(1)
  %p.4 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %updated = f32[100,4]{1,0} dynamic-update-slice(%p.2, %p.3, %p.4, %zero)
}

%nothing (t.0: (f32[2,4])) -> (f32[2,4]) {
  ROOT %t.0 = (f32[2,4]{1,0}) parameter(0)
}

%double (t.1: (f32[2,4])) -> (f32[2,4]) {
  %t.1 = (f32[2,4]{1,0}) parameter(0)
  %x = f32[2,4]{1,0} get-tuple-element(%t.1), index=0
  %copy.1 = f32[2,4]{1,0} copy(%x)
  ROOT %out = (f32[2,4]{1,0}) tuple(%copy.1)
}

ENTRY %main (a: bf16[8,4], b: f32[], c: f32[100,4], d: f32[1,4], e: s32[], t: pred[]) -> f32[2,4] {
  %a = bf16[8,4]{1,0} parameter(0)
  %b = f32[] parameter(1)
  %c = f32[100,4]{1,0} parameter(2)
  %d = f32[1,4]{1,0} parameter(3)
  %e = s32[] parameter(4)
  %t = pred[] parameter(5)
  %loop_fusion = f32[2,4]{1,0} fusion(%a, %b), kind=kLoop, calls=%rows, metadata={op_name="jit(f)/multiply"}
  %put_fusion = f32[100,4]{1,0} fusion(%c, %d, %e), kind=kLoop, calls=%put
  %conv = (f32[2,4]{1,0}, u8[16]{0}) custom-call(%loop_fusion, %d), custom_call_target="__cudnn$convForward"
  %given = (f32[2,4]{1,0}) tuple(%loop_fusion)
  %looped = (f32[2,4]{1,0}) while(%given), condition=%nothing, body=%double, backend_config={"known_trip_count":{"n":"3"}}
  %open = (f32[2,4]{1,0}) while(%looped), condition=%nothing, body=%double
  %chosen = (f32[2,4]{1,0}) conditional(%t, %open, %open), true_computation=%double, false_computation=%nothing
  ROOT %last = f32[2,4]{1,0} get-tuple-element(%chosen), index=0
}
"""


def test_sizes_of_shapes():
    assert size("f32[2,3]{1,0}") == 24 and elements("f32[2,3]{1,0}") == 6
    assert size("pred[]") == 1 and elements("pred[]") == 1
    assert size("(bf16[4]{0}, /*index=1*/u8[0]{0}, s32[])") == 12


def test_kernels_and_their_bytes():
    program = read_program(TEXT)
    found = {kernel.name: kernel for kernel in program.always}
    assert set(found) == {"loop_fusion", "put_fusion", "conv", "copy.1"}
    # Two rows of bfloat16 and a scalar are read, two of float32 written.
    assert found["loop_fusion"].moved == 2 * 4 * 2 + 4 + 2 * 4 * 4
    assert found["loop_fusion"].origin == "jit(f)/multiply"
    assert found["put_fusion"].moved == 16 + 4 + 16  # the row, its number, and the row in its place
    assert found["conv"].moved == 32 + 16 + 32 + 16
    assert (found["copy.1"].moved, found["copy.1"].starts) == (3 * 64, 3)  # in a loop of three


def test_what_is_started_sometimes():
    program = read_program(TEXT)
    assert [(kernel.name, kernel.moved) for kernel in program.sometimes] == [("copy.1", 64)] * 2
    assert moved(program.sometimes) == 128


def test_kernels_are_counted_by_kind():
    assert read_program(TEXT).summary() == {"copy": 3, "elementwise": 2, "convolution": 1}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gemm_fusion_dot.1", "product"), ("input_add_reduce_fusion", "reduction"), ("wrapped_convert", "elementwise")],
)
def test_kinds_of_fusions(name, kind):
    (kernel,) = (k for k in read_program(TEXT.replace("%loop_fusion", f"%{name}")).always if k.name == name)
    assert kernel.kind == kind
