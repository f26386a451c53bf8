//! What the fuzz targets and the tests run: any bytes as a guest.

mod input;
mod machine;
mod program;
mod run;

pub use run::{Told, fuzz_programs, play};

use crate::flat::{FlatGuest, long_vcpu, protected_vcpu};
use crate::side_by_side::SideBySide;
use x86_arch::vmx::{Seg, TableRegister};

const CODE: u64 = 0x8000;
const DATA: u64 = 0x1_0000;
const MEMORY: u64 = 0x4_0000;

/// Runs `input` as the state and the code of a guest, and checks what must hold whatever the bytes are.
///
/// # Panics
/// When an engine overruns its budget, loses a fixed flag or reaches outside the memory of the guest, or when two
/// kinds of engine do not do the same.
pub fn fuzz_code(input: &[u8]) {
    let mut bytes = input.iter().copied().chain(std::iter::repeat(0));
    let mut byte = || bytes.next().unwrap_or(0);
    let mut word = || u64::from_le_bytes(std::array::from_fn(|_| byte()));
    let shape = word();
    let mut guest = FlatGuest::new(MEMORY);
    let cpl = if shape & 2 != 0 { 3 } else { 0 };
    let mut vcpu = if shape & 1 != 0 {
        protected_vcpu(cpl)
    } else {
        long_vcpu(&mut guest, 0x1000, cpl)
    };
    for register in &mut vcpu.regs.gpr {
        *register = word();
        if shape & 4 != 0 {
            *register = DATA + *register % 0x2_0000;
        }
    }
    vcpu.regs.rflags = word() & 0x25_7FD5 | 2;
    vcpu.regs.rip = CODE;
    vcpu.regs.cr4 |= word() & 0x31_0BAF;
    vcpu.regs.cr0 |= word() & 0x1_000E;
    vcpu.regs.gdtr = TableRegister {
        base: DATA,
        limit: word() as u16,
    };
    vcpu.regs.idtr = TableRegister {
        base: DATA + 0x1000,
        limit: word() as u16,
    };
    vcpu.regs.ldtr.access = word() as u32;
    vcpu.regs.ldtr.limit = 0xFFFF;
    vcpu.regs.tr.base = DATA + 0x2000;
    vcpu.regs.tr.limit = word() as u32 & 0x1FFF;
    vcpu.regs.tr.access = 0x8B;
    if shape & 8 != 0 {
        vcpu.regs.segments[Seg::Fs as usize].base = word();
        vcpu.regs.segments[Seg::Ds as usize].limit = word() as u32;
    }
    if shape & 16 != 0 {
        vcpu.regs.dr7 = word() & 0xFFFF_23FF;
        vcpu.regs.dr = [CODE + 8, DATA, word(), CODE];
    }
    if shape & 32 != 0 {
        vcpu.controls.primary = word() as u32;
        vcpu.controls.secondary = word() as u32 & !2;
        vcpu.controls.exception_bitmap = word() as u32;
        vcpu.controls.interrupt_status = word() as u16;
    }
    if shape & 64 != 0 {
        vcpu.entry_event.info = word() as u32;
        vcpu.entry_event.error_code = word() as u32 & 0xFFFF;
    }
    if shape & 128 != 0 {
        vcpu.msr_bitmap.bits = [[0; 1024]; 4];
    }
    vcpu.regs.xcr0 = 7;
    guest.put(CODE, &input[input.len().min(200)..]);
    let start = vcpu.regs.rip;
    let mut engines = SideBySide::new();
    for _ in 0..8 {
        let ran = engines.run(&mut vcpu, &mut guest, 100);
        assert!(ran.retired <= ran.ticks, "started at {start:#x}");
        assert!(ran.ticks < 100 + 140);
    }
    // Nothing appeared outside the memory that the guest was given.
    assert!(guest.pages.keys().all(|page| *page < MEMORY));
    assert_eq!(vcpu.regs.rflags & 2, 2);
}
