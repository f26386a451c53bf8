//! S6 and S8 in numbers: what one TDH.VP.ENTER executes, loads and stores, ours and Linux's way.
//! `cargo run --release -p tdx_call --example round_trip` prints the table.
#![forbid(unsafe_code)]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod counting;

use counting::*;
use proptest::prelude::*;

const INTERRUPT: Exit = Exit::Asynchronous([1, 0, 0, 0, 0x8000_00EC]);

fn legal_masks() -> impl Iterator<Item = u64> {
    (0..0x1_0000u64).filter(|mask| mask & 0x13 == 0)
}

#[test]
fn the_model_of_linux_has_the_figures_of_its_macro() {
    for exit in [INTERRUPT, Exit::Tdvmcall(0xFFCC)] {
        let (entered, copies) = linux(exit);
        // Four instructions of tdh_vp_enter, one of them a store, come before the macro.
        assert_eq!(entered.instructions - 4, 57);
        assert_eq!((entered.loads, entered.stores - 1), (13, 13));
        assert_eq!((entered.pushes, entered.pops), (7, 7));
        assert_eq!(entered.other_loads, 1, "the pointer from the stack");
        assert_eq!(
            (copies.instructions, copies.loads, copies.stores),
            (8, 4, 4)
        );
    }
}

#[test]
fn an_asynchronous_exit_stores_five_words_loads_one_and_takes_half_of_linux() {
    let ours = ours(0, INTERRUPT, true);
    let (entered, copies) = linux(INTERRUPT);
    let linux = entered.add(copies);
    println!("asynchronous: ours {:?}\nlinux {linux:?}", ours.counts);
    assert!(
        ours.counts.stores <= 5 && ours.counts.loads <= 2,
        "{:?}",
        ours.counts
    );
    assert_eq!((ours.counts.file_loads, ours.counts.file_stores), (0, 0));
    assert_eq!((ours.counts.xmm_loads, ours.counts.xmm_stores), (0, 0));
    assert!(2 * ours.counts.instructions <= linux.instructions);
    // The macro, the store of RCX before it and the copies after it alone are 66.
    assert!(2 * ours.counts.instructions <= 57 + 1 + 8);
}

#[test]
fn a_tdvmcall_loads_and_stores_exactly_the_registers_of_its_mask() {
    let mut cpu = Cpu::new();
    for mask in legal_masks() {
        ours_on(&mut cpu, mask, Exit::Tdvmcall(mask), true, |cpu| {
            for n in 2..16 {
                let selected = mask >> n & 1 != 0;
                assert_eq!(
                    cpu.gpr[n] == file_value(n),
                    selected,
                    "{mask:#x} register {n}"
                );
            }
        });
        let bits = mask.count_ones();
        assert_eq!(
            (cpu.counts.file_loads, cpu.counts.file_stores),
            (bits, bits),
            "{mask:#x}"
        );
        assert_eq!((cpu.counts.xmm_loads, cpu.counts.xmm_stores), (0, 0));
        for n in 0..16 {
            let expected = if mask >> n & 1 != 0 {
                guest(n)
            } else {
                file_value(n)
            };
            assert_eq!(
                cpu.peek(GPR_FILE + 8 * n as u64),
                expected,
                "{mask:#x} register {n}"
            );
        }
        assert_eq!(cpu.peek(ENTRY + 24), mask);
    }
}

#[test]
fn the_masks_of_real_guests_take_no_more_instructions_than_linux() {
    for (guest, mask) in [
        ("Linux, OVMF", 0xFFCC),
        ("OVMF before it dropped RBP", 0xFFEC),
        ("td-shim", 0xFC00),
    ] {
        let ours = ours(mask, Exit::Tdvmcall(mask), true).counts;
        let (entered, copies) = linux(Exit::Tdvmcall(mask));
        let linux = entered.add(copies).instructions;
        println!(
            "{guest} {mask:#x}: ours {}, Linux {linux}",
            ours.instructions
        );
        assert!(ours.instructions <= linux, "{guest}");
    }
}

#[test]
fn no_value_of_the_guest_stays_in_a_register() {
    let mut cpu = Cpu::new();
    let callee_saved = [3, 5, 12, 13, 14, 15];
    for mask in legal_masks().step_by(3).chain([0xFFCC, 0xFFEC, 0xFC00]) {
        for (with_xmm, mask) in [
            (true, mask),
            (true, mask | 0xA5A5_0000),
            (false, mask | 0xFFFF_0000),
        ] {
            ours_on(&mut cpu, 0, Exit::Tdvmcall(mask), with_xmm, |_| {});
            for n in 0..16 {
                assert_ne!(cpu.gpr[n] >> 32, guest(0) >> 32, "{mask:#x} register {n}");
                if callee_saved.contains(&n) {
                    assert_eq!(cpu.gpr[n], host(n), "{mask:#x} register {n}");
                }
                assert_ne!(cpu.xmm[n] >> 96, guest_xmm(0) >> 96, "{mask:#x} XMM{n}");
            }
            assert_eq!(cpu.gpr[0], 77);
        }
    }
    for exit in [
        INTERRUPT,
        Exit::Refused(0x8000_0200_0000_0092),
        Exit::VmFailInvalid,
    ] {
        for owed in [0, 0xFFCC, 0xD04] {
            ours_on(&mut cpu, owed, exit, true, |_| {});
            for n in callee_saved {
                assert_eq!(cpu.gpr[n], host(n), "{exit:?}");
            }
        }
    }
}

#[test]
fn an_entry_that_failed_writes_no_register_and_keeps_the_answer_owed() {
    let mut cpu = Cpu::new();
    for owed in legal_masks().step_by(7).chain([0xFFCC, 0xFFEC, 0xFC00]) {
        for exit in [
            Exit::Refused(0x8000_0200_0000_00A9),
            Exit::Refused(0xC000_0100_0000_004D), // an operand id that looks like a TDVMCALL
            Exit::VmFailInvalid,
        ] {
            ours_on(&mut cpu, owed, exit, true, |_| {});
            assert_eq!((cpu.counts.file_stores, cpu.counts.xmm_stores), (0, 0));
            assert_eq!(cpu.peek(ENTRY + 24), owed, "{owed:#x} {exit:?}");
            let rax = match exit {
                Exit::Refused(status) => status,
                _ => 0x8000_FF00_FFFF_0000,
            };
            assert_eq!(cpu.gpr[0], rax);
        }
        ours_on(&mut cpu, owed, INTERRUPT, true, |_| {});
        assert_eq!(
            cpu.peek(ENTRY + 24),
            0,
            "an exit means that the answer arrived"
        );
        assert_eq!(cpu.counts.stores, 5);
    }
}

#[test]
fn a_tdvmcall_after_a_bus_lock_is_one_and_an_l2_one_keeps_its_vm() {
    for owed in [0, 0xFFCC] {
        let mut cpu = Cpu::new();
        ours_on(&mut cpu, owed, Exit::Tdvmcall(0xFFCC), true, |_| {});
        let plain = cpu.peek(GPR_FILE + 80);
        let mut locked = Cpu::new();
        for n in 0..16 {
            locked.poke(GPR_FILE + 8 * n, file_value(n as usize));
        }
        // The same exit with bit 26, and with VM 2.
        let rcx = 0x2_0000_FFCC;
        let enter = tdx_call::instruction::enter as *const () as usize;
        locked.poke(ENTRY, GPR_FILE);
        locked.poke(ENTRY + 16, 0x7_0000);
        locked.poke(ENTRY + 24, owed);
        locked.call(enter, [ENTRY, 0], |cpu| {
            play(cpu, Exit::Tdvmcall(rcx));
            cpu.gpr[0] |= 1 << 26;
        });
        assert_eq!(locked.peek(GPR_FILE + 80), plain);
        assert_eq!(locked.peek(ENTRY + 24), rcx);
        assert_eq!(locked.peek(ENTRY + 32), 0x0400_004D);
    }
}

proptest! {
    #[test]
    fn xmm_registers_cross_exactly_as_selected(xmm: u16, gprs in 0..0x1_0000u64) {
        let mask = gprs & !0x13 | u64::from(xmm) << 16;
        let mut cpu = Cpu::new();
        let mut at_call = [0; 16];
        ours_on(&mut cpu, mask, Exit::Tdvmcall(mask), true, |cpu| at_call = cpu.xmm);
        let bits = xmm.count_ones();
        prop_assert_eq!((cpu.counts.xmm_loads, cpu.counts.xmm_stores), (bits, bits));
        for (n, value) in at_call.into_iter().enumerate() {
            let selected = xmm >> n & 1 != 0;
            let file = u128::from(file_value(n)) << 64;
            prop_assert_eq!(value == file, selected);
            prop_assert_eq!(cpu.peek_xmm(n as u64), if selected { guest_xmm(n) } else { file });
        }
        // Without a file the guest finds zeros in what it selected.
        ours_on(&mut cpu, mask, INTERRUPT, false, |cpu| at_call = cpu.xmm);
        for (n, value) in at_call.into_iter().enumerate() {
            prop_assert!(xmm >> n & 1 == 0 || value == 0);
        }
    }
}
