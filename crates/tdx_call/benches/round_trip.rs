//! `cargo bench -p tdx_call`: time of a TDH.VP.ENTER round trip around a stand-in for the instruction (a load for each
//! register), ours and Linux's way; and of a register asked through a window.
#![expect(unsafe_code, reason = "calls the stand-ins")]

use std::fmt;

use coco_regs::{GprFile, GprSet, Window};
use divan::{Bencher, black_box};
use tdx_abi::Status;
use tdx_call::instruction::evidence::{
    enter_stand_in, linux_copies, linux_vp_enter_stand_in, set_exit,
};
use tdx_call::{TdvprAndFlags, TdxModuleArgs, VpEntry};
use x86_arch::Gpr;

fn main() {
    divan::main();
}

/// An interrupt, or a TDVMCALL by its mask.
#[derive(Clone, Copy)]
enum Exit {
    Interrupt,
    Tdvmcall(u64),
}

const EXITS: [Exit; 5] = [
    Exit::Interrupt,
    Exit::Tdvmcall(0xFFCC),
    Exit::Tdvmcall(0xFFEC),
    Exit::Tdvmcall(0xFC00),
    Exit::Tdvmcall(0x1C00),
];

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Interrupt => f.write_str("interrupt"),
            Exit::Tdvmcall(mask) => write!(f, "TDVMCALL {mask:#x}"),
        }
    }
}

fn prepare(exit: Exit) {
    let mut gprs = [0; 16];
    (gprs[0], gprs[1]) = match exit {
        Exit::Interrupt => (1, 0),
        Exit::Tdvmcall(mask) => (77, mask),
    };
    set_exit(gprs);
}

#[divan::bench(args = EXITS, threads = 1)]
fn ours(bencher: Bencher<'_, '_>, exit: Exit) {
    prepare(exit);
    let mut file = GprFile::default();
    let mut entry = VpEntry::new(TdvprAndFlags(0x1000), &mut file, None);
    bencher.bench_local(move || {
        // SAFETY: the entry is valid, and the stand-in touches nothing else.
        Status(unsafe { enter_stand_in(black_box(&mut entry)) })
    });
}

#[divan::bench(args = EXITS, threads = 1)]
fn linux(bencher: Bencher<'_, '_>, exit: Exit) {
    prepare(exit);
    let mut args = TdxModuleArgs::default();
    let mut fields = [0; 4];
    bencher.bench_local(move || {
        // SAFETY: both blocks are valid, and the stand-in touches nothing else.
        unsafe {
            let rax = linux_vp_enter_stand_in(black_box(&mut args), 0x1000);
            linux_copies(&args, black_box(&mut fields));
            Status(rax)
        }
    });
}

#[divan::bench]
fn register_of_a_plain_file(bencher: Bencher<'_, '_>) {
    let file = GprFile([7; 16]);
    bencher.bench_local(|| black_box(&file)[black_box(Gpr::R12)]);
}

#[divan::bench]
fn register_through_a_window(bencher: Bencher<'_, '_>) {
    let mut file = GprFile([7; 16]);
    let window = Window::both(&mut file, GprSet::of(&[Gpr::R12]));
    bencher.bench_local(|| black_box(&window).get(black_box(Gpr::R12)));
}
