//! Ordinary VMs pay nothing: common VMM code over `Registers` compiles to the instructions of plain array access.
//! What a window costs beside it is printed by `--nocapture`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use coco_regs::{GprFile, Hidden, Registers, Window};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};
use x86_arch::Gpr;

/// RDMSR, WRMSR-like and CPUID-like work of a VMM's common code, over any kind of VM.
#[inline(always)]
fn common<R: Registers<GprFile>>(regs: &mut R, msr: u64) -> Result<u64, R::Error> {
    let leaf = regs.get(Gpr::Rax)?;
    let sub = regs.get(Gpr::Rcx)?;
    regs.set(Gpr::Rax, msr & 0xFFFF_FFFF)?;
    regs.set(Gpr::Rdx, msr >> 32)?;
    regs.set(Gpr::R15, sub)?;
    Ok(leaf ^ sub)
}

#[inline(never)]
extern "C" fn through_the_trait(regs: &mut GprFile, msr: u64) -> u64 {
    let Ok(value) = common(regs, msr);
    value
}

#[inline(never)]
extern "C" fn plain_array(regs: &mut [u64; 16], msr: u64) -> u64 {
    let leaf = regs[0];
    let sub = regs[1];
    regs[0] = msr & 0xFFFF_FFFF;
    regs[2] = msr >> 32;
    regs[15] = sub;
    leaf ^ sub
}

#[inline(never)]
fn through_a_window(regs: &mut Window<'_, GprFile>, msr: u64) -> Result<u64, Hidden<Gpr>> {
    common(regs, msr)
}

/// The instructions at `address` up to the first return, relative to it.
fn instructions(address: usize) -> Vec<Instruction> {
    let mut code = [0; 4096];
    let memory = File::open("/proc/self/mem").expect("own memory");
    let read = memory.read_at(&mut code, address as u64).expect("code");
    let mut list = Vec::new();
    for instruction in Decoder::with_ip(64, &code[..read], 0, DecoderOptions::NONE) {
        let last = instruction.flow_control() == FlowControl::Return;
        list.push(instruction);
        if last {
            return list;
        }
    }
    panic!("no return in {read} bytes");
}

#[test]
fn common_code_over_an_ordinary_vm_is_plain_array_access() {
    // Optimised builds only: the dev profile optimises this crate, other settings may not.
    let ours = instructions(through_the_trait as *const () as usize);
    let plain = instructions(plain_array as *const () as usize);
    let text = |list: &[Instruction]| list.iter().map(|i| i.to_string()).collect::<Vec<_>>();
    assert_eq!(text(&ours), text(&plain));
    assert!(ours.len() > 5, "the functions were not emptied: {ours:?}");

    let windowed = instructions(through_a_window as *const () as usize);
    println!(
        "plain array {} instructions, over the trait {}, over a window {} up to its first return",
        plain.len(),
        ours.len(),
        windowed.len()
    );
    assert!(
        windowed.len() > ours.len(),
        "a window checks: the comparison can tell"
    );
}

#[test]
fn both_compute_the_same() {
    let mut file = GprFile(std::array::from_fn(|n| n as u64 * 3 + 1));
    let mut array = file.0;
    let value = through_the_trait(&mut file, 0x1234_5678_9ABC_DEF0);
    assert_eq!(value, plain_array(&mut array, 0x1234_5678_9ABC_DEF0));
    assert_eq!(file.0, array);
    let mut window = Window::all(&mut file);
    assert_eq!(
        through_a_window(&mut window, 0x1234_5678_9ABC_DEF0),
        Ok(plain_array(&mut array, 0x1234_5678_9ABC_DEF0))
    );
    assert_eq!(file.0, array);
}
