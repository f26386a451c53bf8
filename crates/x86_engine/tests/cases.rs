//! One-line cases: bytes and inputs against outputs or a fault (`tests/data/*.txt`, whose head says the format).

use x86_arch::vmx::{Seg, TableRegister, Vcpu};
use x86_arch::{ExitReason, Gpr};
use x86_engine::flat::{FlatGuest, long_vcpu, protected_vcpu};
use x86_engine::side_by_side::SideBySide;

const CODE: u64 = 0x8000;
/// No opcode in 64-bit mode.
const INVALID: u8 = 0x06;
const FLAGS: [(char, u64); 10] = [
    ('C', 1),
    ('P', 4),
    ('A', 16),
    ('Z', 64),
    ('S', 128),
    ('T', 256),
    ('I', 512),
    ('D', 1024),
    ('O', 2048),
    ('L', 1 << 18),
];
const ARITHMETIC: u64 = 0x8D5;

/// "32-bit number or nothing" by its name in a case.
fn number(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or_else(|_| panic!("{text} is no hexadecimal number"))
}

fn flags(text: &str) -> u64 {
    text.chars()
        .map(|c| {
            FLAGS
                .iter()
                .find(|(name, _)| *name == c)
                .unwrap_or_else(|| panic!("flag {c}"))
                .1
        })
        .sum()
}

fn start(mode: &str, guest: &mut FlatGuest) -> Vcpu {
    let cpl = if mode.ends_with('u') { 3 } else { 0 };
    let mut vcpu = if mode.starts_with("64") {
        long_vcpu(guest, 0x1000, cpl)
    } else {
        protected_vcpu(cpl)
    };
    if mode == "16" {
        vcpu.regs.segments[Seg::Cs as usize].access &= !(1 << 14);
    }
    vcpu.regs.rip = CODE;
    vcpu.regs.gpr[4] = 0x9000;
    vcpu.regs.gdtr = TableRegister {
        base: 0x3000,
        limit: 0xF,
    };
    vcpu.regs.idtr = TableRegister {
        base: 0x4000,
        limit: 0xFFF,
    };
    // Gates that only ring 0 may use; the exceptions exit, so nothing is ever delivered.
    for vector in 0..256 {
        guest.put_u64(0x4000 + vector * 16, 0x8E00 << 32 | 8 << 16);
    }
    vcpu.controls.exception_bitmap = u32::MAX;
    vcpu
}

/// The fault that an exit reports, as the cases write it.
fn fault(vcpu: &Vcpu) -> String {
    assert_eq!(
        vcpu.exit.basic_reason(),
        ExitReason::EXCEPTION_OR_NMI,
        "{:?}",
        vcpu.exit
    );
    const NAMES: [&str; 20] = [
        "DE", "DB", "NMI", "BP", "OF", "BR", "UD", "NM", "DF", "9", "TS", "NP", "SS", "GP", "PF",
        "15", "MF", "AC", "MC", "XM",
    ];
    let info = vcpu.exit.interruption_info;
    let name = NAMES[(info & 0xFF) as usize];
    if info & 1 << 11 != 0 {
        format!("{name}({:x})", vcpu.exit.interruption_error)
    } else {
        name.into()
    }
}

/// Adds the instructions that ran in translated code to `translated`.
fn check(line: &str, translated: &mut u64) -> Result<(), String> {
    let mut parts = line.split('|');
    let mut part = || parts.next().unwrap_or("").trim();
    let (code, before, after) = (part(), part(), part());
    let (mode, bytes) = code.split_once(' ').ok_or("no code")?;
    let bytes: Vec<u8> = bytes.split(' ').map(|b| number(b) as u8).collect();
    let mut guest = FlatGuest::new(0x10_0000);
    let mut vcpu = start(mode, &mut guest);
    // With nothing valid behind it, the translated block is this one instruction, and the budget suffices.
    guest.put(CODE, &bytes);
    guest.put(CODE + bytes.len() as u64, &[INVALID]);
    for item in before.split_whitespace() {
        let (name, value) = item.split_once('=').ok_or(item)?;
        match name {
            "flags" => vcpu.regs.rflags |= flags(value),
            "rip" => vcpu.regs.rip = number(value),
            _ if name.starts_with('m') => guest.put_u64(number(&name[1..]), number(value)),
            _ => {
                let register = Gpr::parse(name).ok_or(name)?;
                vcpu.regs.gpr[register as usize] = number(value);
            }
        }
    }
    let (first, mut memory) = (vcpu.clone(), FlatGuest::new(0));
    guest.copy_to(&mut memory);
    let mut engines = SideBySide::new();
    engines.compare(0, &mut vcpu, &mut guest, 1)?;
    // Once more, now that the engines know the pages: translated code leaves no access to the interpreter.
    vcpu = first;
    memory.copy_to(&mut guest);
    let before = engines.translated();
    let ran = engines.compare(0, &mut vcpu, &mut guest, 1)?;
    *translated += engines.translated() - before;
    let wants_fault = after
        .split_whitespace()
        .any(|item| item.starts_with("fault="));
    let wants_rip = after
        .split_whitespace()
        .any(|item| item.starts_with("rip="));
    if !wants_fault {
        if ran.retired != 1 {
            return Err(format!("did not complete: {:?}", vcpu.exit));
        }
        let past = CODE + bytes.len() as u64;
        if !wants_rip && vcpu.regs.rip != past {
            return Err(format!("RIP {:x}", vcpu.regs.rip));
        }
    }
    for item in after.split_whitespace() {
        let (name, value) = item.split_once('=').ok_or(item)?;
        let found = match name {
            "fault" if ran.retired == 0 => {
                let found = fault(&vcpu);
                if found != value {
                    return Err(format!("fault {found}"));
                }
                continue;
            }
            "fault" => return Err("no fault".into()),
            "flags" => {
                let found = vcpu.regs.rflags & ARITHMETIC;
                if found != flags(value) {
                    return Err(format!("flags {found:x}"));
                }
                continue;
            }
            "rip" => vcpu.regs.rip,
            _ if name.starts_with('m') => guest.get_u64(number(&name[1..])),
            _ => vcpu.regs.gpr[Gpr::parse(name).ok_or(name)? as usize],
        };
        if found != number(value) {
            return Err(format!("{name} is {found:x}"));
        }
    }
    Ok(())
}

#[test]
fn every_case_of_the_data_files_holds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    let (mut cases, mut translated) = (0, 0);
    let mut failures = vec![];
    for entry in std::fs::read_dir(folder).expect("the data folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "txt") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a data file");
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            cases += 1;
            if let Err(why) = check(line, &mut translated) {
                failures.push(format!(
                    "{}:{}: {line}\n    {why}",
                    path.display(),
                    number + 1
                ));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {cases} cases\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(cases > 100);
    if SideBySide::new().translates() {
        assert!(
            translated > 30,
            "{translated} of {cases} cases were translated"
        );
    }
}
