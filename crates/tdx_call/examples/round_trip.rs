//! What one TDH.VP.ENTER costs by kind of exit: `cargo run --release -p tdx_call --example round_trip`.
//!
//! Instructions, loads and stores are counted by interpreting the machine code of this program (see
//! `tests/counting/mod.rs`), for `tdx_call::instruction::enter` and for a model of Linux's way.
#![forbid(unsafe_code)]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "../tests/counting/mod.rs"]
mod counting;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn main() {
    use counting::{Cpu, Exit, linux, ours, ours_on};

    println!(
        "One TDH.VP.ENTER, from the call of the entry to its return. Register loads and stores are those of the"
    );
    println!(
        "register file, the words of the call and the exit words; pushes and pops of both are 7 and 7.\n"
    );
    println!("{:<44}{:>22}{:>22}", "", "ours", "Linux");
    println!(
        "{:<44}{:>8}{:>7}{:>7}{:>8}{:>7}{:>7}",
        "exit (after one of the same kind)", "instr", "loads", "stores", "instr", "loads", "stores"
    );
    let interrupt = Exit::Asynchronous([1, 0, 0, 0, 0x8000_00EC]);
    let rows = [
        ("external interrupt", 0, interrupt),
        (
            "EPT violation",
            0,
            Exit::Asynchronous([48, 0x182, 0, 0x8000_0000, 0]),
        ),
        (
            "interrupt, answering a TDVMCALL of 0xFFCC",
            0xFFCC,
            interrupt,
        ),
        (
            "busy (not entered)",
            0,
            Exit::Refused(0x8000_0200_0000_00A9),
        ),
        (
            "TDVMCALL 0xFFCC (Linux, OVMF)",
            0xFFCC,
            Exit::Tdvmcall(0xFFCC),
        ),
        (
            "TDVMCALL 0xFFEC (OVMF before it dropped RBP)",
            0xFFEC,
            Exit::Tdvmcall(0xFFEC),
        ),
        ("TDVMCALL 0xFC00 (td-shim)", 0xFC00, Exit::Tdvmcall(0xFC00)),
        (
            "TDVMCALL 0x1C00 (openvmm, RDMSR)",
            0x1C00,
            Exit::Tdvmcall(0x1C00),
        ),
        (
            "TDVMCALL 0x3C00 (openvmm, WRMSR)",
            0x3C00,
            Exit::Tdvmcall(0x3C00),
        ),
        (
            "TDVMCALL 0x0D04 (openvmm, hypercall)",
            0xD04,
            Exit::Tdvmcall(0xD04),
        ),
    ];
    for (name, owed, exit) in rows {
        let a = ours(owed, exit, true).counts;
        let (entered, copies) = linux(exit);
        let b = entered.add(copies);
        println!(
            "{name:<44}{:>8}{:>7}{:>7}{:>8}{:>7}{:>7}",
            a.instructions, a.loads, a.stores, b.instructions, b.loads, b.stores
        );
    }

    let mut cpu = Cpu::new();
    let mut all: Vec<u32> = (0..0x1_0000u64)
        .filter(|mask| mask & 0x13 == 0)
        .map(|mask| {
            ours_on(&mut cpu, mask, Exit::Tdvmcall(mask), true, |_| {});
            cpu.counts.instructions
        })
        .collect();
    all.sort_unstable();
    println!(
        "\nTDVMCALL with any of the {} legal masks of general-purpose registers: {} to {} instructions, median {}.",
        all.len(),
        all[0],
        all[all.len() - 1],
        all[all.len() / 2]
    );
    println!(
        "Linux's 57-instruction macro, 4 instructions of tdh_vp_enter and 8 of copies are counted; what KVM"
    );
    println!("copies besides for a hypercall (5 pairs), RDMSR or WRMSR is not.");
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn main() {
    println!("the machine code is for x86-64, and is read through Linux's /proc/self/mem");
}
