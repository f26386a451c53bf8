//! A KVM-like VMM whose common code serves an ordinary VM, a TD and an SEV-ES guest: `cargo run -p coco_regs --example
//! one_vmm`.
//!
//! The change to the common code is its signature: `regs: &mut R` with `R: Registers<GprFile>` instead of the array. The
//! callers keep their array, and lend it through a window where the guest is confidential.
#![forbid(unsafe_code)]

use coco_regs::sev_es::{NaeEvent, ValidBitmap};
use coco_regs::tdx::Request;
use coco_regs::{Audit, Exit, ExitWords, GprFile, GprSet, Registers};
use tdx_abi::Status;
use x86_arch::Gpr::{self, R10, R11, R12, R13, R14, Rax, Rbx, Rcx, Rdx, Rsi};

/// KVM_HC_SEND_IPI and its like: number, up to four arguments, result.
struct Convention {
    number: Gpr,
    arguments: [Gpr; 3],
    result: Gpr,
}
/// VMCALL and VMMCALL of an ordinary VM and of an SEV-ES guest.
const VMCALL: Convention = Convention {
    number: Rax,
    arguments: [Rbx, Rcx, Rdx],
    result: Rax,
};
/// TDG.VP.VMCALL with R10 not 0.
const TDVMCALL: Convention = Convention {
    number: R10,
    arguments: [R11, R12, R13],
    result: R10,
};

/// The common code: one hypercall, here the sum of its arguments.
fn hypercall<R: Registers<GprFile>>(regs: &mut R, by: &Convention) -> Result<u64, R::Error> {
    let number = regs.get(by.number)?;
    let mut sum = 0u64;
    for argument in by.arguments {
        sum = sum.wrapping_add(regs.get(argument)?);
    }
    regs.set(by.result, sum)?;
    Ok(number)
}

fn main() {
    // The VMM's register array, in KVM's order; the guest asked for call 11 with 1, 2 and 3.
    let mut array = GprFile::default();
    (array[Rax], array[Rbx], array[Rcx], array[Rdx]) = (11, 1, 2, 3);
    let Ok(number) = hypercall(&mut array, &VMCALL);
    println!("ordinary VM: call {number}, result {}", array[Rax]);

    let mut array = GprFile::default();
    (array[R10], array[R11], array[R12], array[R13]) = (11, 1, 2, 3);
    for mask in [0x3C00, 0x1C00] {
        let words = ExitWords {
            rax: Status(77),
            rcx: mask,
            ..ExitWords::default()
        };
        let Exit::Tdvmcall(mut call) = Exit::new(words, &mut array, None) else {
            unreachable!("RAX says TDVMCALL")
        };
        println!(
            "TD that shows {}: {:?}",
            call.mask.gprs(),
            Request::of(&call)
        );
        match hypercall(&mut call.gprs, &TDVMCALL) {
            Ok(number) => println!("  call {number}, result {:?}", call.gprs.get(R10)),
            Err(hidden) => println!("  {hidden}"),
        }
    }

    let mut array = GprFile::default();
    (array[Rax], array[Rbx], array[Rcx], array[Rdx], array[Rsi]) = (11, 1, 2, 3, 4);
    for valid in [[Rax, Rbx, Rcx, Rdx].as_slice(), &[Rax, Rbx]] {
        let valid = ValidBitmap::of(GprSet::of(valid)).with(coco_regs::sev_es::Field::Cpl);
        let mut window = NaeEvent::window(0x81, 0, valid, &mut array).expect("VMMCALL with RAX");
        println!("SEV-ES guest whose VMMCALL shows {}:", window.readable());
        match hypercall(&mut window, &VMCALL) {
            Ok(number) => println!("  call {number}, result {:?}", window.get(Rax)),
            Err(hidden) => println!("  {hidden}"),
        }
    }

    // An existing VMM under audit: it goes on, and each touch of a hidden register is listed with its line.
    let audit = Audit::<Gpr>::new();
    let words = ExitWords {
        rax: Status(77),
        rcx: 0xC00,
        ..ExitWords::default()
    };
    if let Exit::Tdvmcall(call) = Exit::new(words, &mut array, None) {
        let mut regs = call.gprs.with_policy(&audit);
        let _ = hypercall(&mut regs, &TDVMCALL);
        let _ = regs.set(R14, 1);
    }
    println!(
        "audit of a TD that shows R10 and R11: {} touches",
        audit.count()
    );
    for touch in audit.touches() {
        println!("  {touch}");
    }
}
