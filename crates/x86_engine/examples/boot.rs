//! Boots an unmodified Linux bzImage on the engine alone, as a plain VM: a stand-in for a VMM with a serial port, an
//! x2APIC with a TSC-deadline timer and nothing else. A check of the engine and a benchmark; TDs are `swtdx run`.
//!
//! `cargo run --release -p x86_engine --example boot -- VMLINUZ [INITRAMFS] [--append STR] [--until TEXT] [--million N]`

use std::io::Write;
use std::time::Instant;
use x86_arch::vmx::{Seg, Segment, TableRegister, Vcpu};
use x86_arch::{ExitReason, Gpr};
use x86_engine::flat::{FlatGuest, long_vcpu};
use x86_engine::{Engine, Stop};

const MEMORY: u64 = 768 << 20;
const TABLES: u64 = 0x1_0000;
const GDT: u64 = 0x8000;
const PARAMS: u64 = 0x7000;
const COMMAND_LINE: u64 = 0x2_0000;
const RSDP: u64 = 0xE_0000;
const KERNEL: u64 = 16 << 20;

struct Machine {
    guest: FlatGuest,
    deadline: u64,
    timer: u32,
    console: Vec<u8>,
    msrs: std::collections::HashMap<u32, u64>,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mut files = vec![];
    let mut append = String::new();
    let mut until = String::new();
    let mut budget = u64::MAX;
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_default();
        match arg.as_str() {
            "--append" => append = value(),
            "--until" => until = value(),
            "--million" => budget = value().parse::<u64>().unwrap_or(1000) * 1_000_000,
            _ => files.push(arg),
        }
    }
    let Some(kernel) = files.first() else {
        eprintln!("boot: no kernel given");
        std::process::exit(2);
    };
    let image = std::fs::read(kernel).expect("the kernel file");
    let initrd = files
        .get(1)
        .map(|f| std::fs::read(f).expect("the initramfs"));
    let mut guest = FlatGuest::new(MEMORY);
    let mut vcpu = load(&mut guest, &image, initrd.as_deref(), &append);
    let mut machine = Machine {
        guest,
        deadline: u64::MAX,
        timer: 0,
        console: vec![],
        msrs: Default::default(),
    };
    let mut engine = Engine::new();
    let start = Instant::now();
    let mut retired = 0;
    let mut exits = 0u64;
    let mut by_reason = std::collections::BTreeMap::<u16, u64>::new();
    let outcome = loop {
        let left = machine.deadline.saturating_sub(machine.guest.clock).max(1);
        let ran = engine.run(&mut vcpu, &mut machine.guest, left.min(10_000_000));
        retired += ran.retired;
        machine.guest.clock += ran.ticks;
        if machine.guest.clock >= machine.deadline {
            machine.deadline = u64::MAX;
            post(&mut vcpu, machine.timer as u8);
        }
        if ran.stop == Stop::Exit {
            exits += 1;
            *by_reason.entry(vcpu.exit.basic_reason().0).or_default() += 1;
            if let Err(why) = machine.exit(&mut vcpu) {
                break why;
            }
        }
        let text =
            String::from_utf8_lossy(&machine.console[machine.console.len().saturating_sub(400)..]);
        if !until.is_empty() && text.contains(&until) {
            break "the text appeared".into();
        }
        if retired > budget {
            break "budget used".into();
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    eprintln!(
        "\nboot: {outcome}; {:.2} G instructions in {seconds:.2} s = {:.0} MIPS; {exits} exits {by_reason:?}; RIP {:#x} CR2 {:#x}",
        retired as f64 / 1e9,
        retired as f64 / 1e6 / seconds,
        vcpu.regs.rip,
        vcpu.regs.cr2,
    );
    if outcome != "the text appeared" {
        eprintln!("{:x?}\n{:x?}", vcpu.regs.gpr, vcpu.exit);
        std::process::exit(1);
    }
}

/// Sets a vector in the virtual IRR.
fn post(vcpu: &mut Vcpu, vector: u8) {
    let at = 0x200 + usize::from(vector >> 5) * 16;
    let word = vcpu.apic_page.read(at) | 1 << (vector & 31);
    vcpu.apic_page.write(at, word);
    let status = &mut vcpu.controls.interrupt_status;
    if u16::from(vector) > *status & 0xFF {
        *status = *status & 0xFF00 | u16::from(vector);
    }
}

fn load(guest: &mut FlatGuest, image: &[u8], initrd: Option<&[u8]>, append: &str) -> Vcpu {
    let setup_sectors = match image[0x1F1] {
        0 => 4,
        n => usize::from(n),
    };
    let body = (setup_sectors + 1) * 512;
    guest.put(KERNEL, &image[body..]);
    let mut params = vec![0u8; 4096];
    let header_end = 0x202 + usize::from(image[0x201]);
    params[0x1F1..header_end].copy_from_slice(&image[0x1F1..header_end]);
    params[0x210] = 0xFF;
    params[0x211] |= 1;
    params[0x228..0x22C].copy_from_slice(&(COMMAND_LINE as u32).to_le_bytes());
    params[0x214..0x218].copy_from_slice(&(KERNEL as u32).to_le_bytes());
    if let Some(initrd) = initrd {
        let at = (MEMORY - initrd.len() as u64 - 0x10_0000) & !0xFFF;
        guest.put(at, initrd);
        params[0x218..0x21C].copy_from_slice(&(at as u32).to_le_bytes());
        params[0x21C..0x220].copy_from_slice(&(initrd.len() as u32).to_le_bytes());
    }
    for (n, (base, size)) in [(0, 0x9_F000), (0x10_0000, MEMORY - 0x10_0000)]
        .into_iter()
        .enumerate()
    {
        let entry = 0x2D0 + n * 20;
        params[entry..entry + 8].copy_from_slice(&u64::to_le_bytes(base));
        params[entry + 8..entry + 16].copy_from_slice(&u64::to_le_bytes(size));
        params[entry + 16] = 1;
    }
    params[0x1E8] = 2;
    acpi(guest);
    params[0x70..0x78].copy_from_slice(&RSDP.to_le_bytes());
    guest.put(PARAMS, &params);
    let line = format!(
        "console=ttyS0 earlyprintk=serial,ttyS0 nokaslr tsc=reliable no_timer_check {append}\0"
    );
    guest.put(COMMAND_LINE, line.as_bytes());

    let mut vcpu = long_vcpu(guest, TABLES, 0);
    for gib in 0..4u64 {
        guest.put_u64(TABLES + 0x1000 + gib * 8, gib << 30 | 0x83);
    }
    guest.put_u64(TABLES, (TABLES + 0x1000) | 3);
    guest.put_u64(GDT + 16, 0x00AF_9B00_0000_FFFF);
    guest.put_u64(GDT + 24, 0x00CF_9300_0000_FFFF);
    vcpu.regs.gdtr = TableRegister {
        base: GDT,
        limit: 0x1F,
    };
    for (index, segment) in vcpu.regs.segments.iter_mut().enumerate() {
        segment.selector = if index == Seg::Cs as usize {
            0x10
        } else {
            0x18
        };
    }
    vcpu.regs.tr = Segment {
        selector: 0,
        limit: 0xFFFF,
        access: 0x8B,
        base: 0,
    };
    vcpu.regs.cr4 = 0x20;
    vcpu.regs.xcr0 = 1;
    vcpu.regs.msr.pat = 0x0007_0406_0007_0406;
    vcpu.regs.rip = KERNEL + 0x200;
    vcpu.regs.gpr[Gpr::Rsi as usize] = PARAMS;
    let c = &mut vcpu.controls;
    c.pin = 1;
    c.primary = 1 << 7 | 1 << 21 | 1 << 24 | 1 << 28 | 1 << 31;
    c.secondary = 1 << 3 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 12 | 1 << 20;
    for msr in [0x10, 0x174, 0x175, 0x176, 0x277, 0x808, 0x80B, 0x83F, 0xDA0]
        .into_iter()
        .chain(0x810..0x828)
        .chain(0xC000_0080..=0xC000_0084)
        .chain(0xC000_0100..=0xC000_0103)
    {
        vcpu.msr_bitmap.set(msr, false, false);
        vcpu.msr_bitmap.set(msr, true, false);
    }
    vcpu
}

/// The least ACPI that gets Linux to use its local APIC: hardware-reduced FADT, an empty DSDT, one x2APIC.
fn acpi(guest: &mut FlatGuest) {
    fn table(name: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
        let mut t = name.to_vec();
        t.extend((36 + body.len() as u32).to_le_bytes());
        t.extend([revision, 0]);
        t.extend(b"SWTDX SWTDX   ");
        t.extend([1, 0, 0, 0, b'S', b'W', b'T', b'D', 1, 0, 0, 0]);
        t.extend(body);
        t[9] = t.iter().fold(0, |sum, b| sum.wrapping_sub(*b));
        t
    }
    let mut fadt = vec![0u8; 276 - 36];
    fadt[40 - 36..44 - 36].copy_from_slice(&0xE_1000u32.to_le_bytes());
    fadt[112 - 36..116 - 36].copy_from_slice(&(1u32 << 20).to_le_bytes());
    fadt[140 - 36..148 - 36].copy_from_slice(&0xE_1000u64.to_le_bytes());
    let mut madt = 0xFEE0_0000u32.to_le_bytes().to_vec();
    madt.extend([0, 0, 0, 0, 9, 16, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let mut xsdt = vec![];
    for (address, bytes) in [
        (0xE_1000u64, table(b"DSDT", 2, &[])),
        (0xE_2000, table(b"FACP", 6, &fadt)),
        (0xE_3000, table(b"APIC", 5, &madt)),
    ] {
        guest.put(address, &bytes);
        if address != 0xE_1000 {
            xsdt.extend(address.to_le_bytes());
        }
    }
    guest.put(0xE_4000, &table(b"XSDT", 1, &xsdt));
    let mut rsdp = b"RSD PTR ".to_vec();
    rsdp.extend([0, b'S', b'W', b'T', b'D', b'X', b' ', 2, 0, 0, 0, 0]);
    rsdp[8] = rsdp.iter().fold(0, |sum, b| sum.wrapping_sub(*b));
    rsdp.extend(36u32.to_le_bytes());
    rsdp.extend(0xE_4000u64.to_le_bytes());
    rsdp.extend([0, 0, 0, 0]);
    rsdp[32] = rsdp.iter().fold(0, |sum, b| sum.wrapping_sub(*b));
    guest.put(RSDP, &rsdp);
}

impl Machine {
    fn exit(&mut self, vcpu: &mut Vcpu) -> Result<(), String> {
        let exit = vcpu.exit;
        match exit.basic_reason() {
            ExitReason::CPUID_INSTRUCTION => cpuid(vcpu),
            ExitReason::IO_INSTRUCTION => self.port(vcpu),
            ExitReason::MSR_READ | ExitReason::MSR_WRITE => self.msr(vcpu),
            ExitReason::HLT_INSTRUCTION => {
                if self.deadline == u64::MAX && vcpu.controls.interrupt_status & 0xFF == 0 {
                    return Err("halted for ever".into());
                }
                if self.deadline != u64::MAX {
                    self.guest.clock = self.guest.clock.max(self.deadline);
                    self.deadline = u64::MAX;
                    post(vcpu, self.timer as u8);
                }
                vcpu.regs.interruptibility &= !3;
            }
            ExitReason::XSETBV_INSTRUCTION => {
                vcpu.regs.xcr0 = vcpu.regs.gpr[0] & 0xFFFF_FFFF | vcpu.regs.gpr[2] << 32;
            }
            ExitReason::WBINVD_INSTRUCTION => {}
            other => return Err(format!("{other}")),
        }
        vcpu.regs.rip += u64::from(exit.instruction_length);
        Ok(())
    }

    fn port(&mut self, vcpu: &mut Vcpu) {
        let q = vcpu.exit.qualification;
        let port = (q >> 16) as u16;
        if q & 8 == 0 {
            if port == 0x3F8 {
                let byte = vcpu.regs.gpr[0] as u8;
                self.console.push(byte);
                let mut out = std::io::stdout();
                let _ = out.write_all(&[byte]).and_then(|()| out.flush());
            }
            return;
        }
        let value = match port {
            0x3FD => 0x60,
            0x3F9 | 0x3FA => 0,
            0x3F8..0x400 => 0,
            _ => 0xFFFF_FFFFu64,
        };
        let bits = [8, 16, 0, 32][(q & 3) as usize];
        let mask = (1u64 << bits) - 1;
        vcpu.regs.gpr[0] = vcpu.regs.gpr[0] & !mask | value & mask;
    }

    fn msr(&mut self, vcpu: &mut Vcpu) {
        let msr = vcpu.regs.gpr[1] as u32;
        let write = vcpu.exit.basic_reason() == ExitReason::MSR_WRITE;
        let value = vcpu.regs.gpr[0] & 0xFFFF_FFFF | vcpu.regs.gpr[2] << 32;
        if write {
            self.msrs.insert(msr, value);
            match msr {
                0x6E0 => self.deadline = if value == 0 { u64::MAX } else { value },
                0x832 => self.timer = value as u32,
                // ICR to oneself
                0x830 if value & 0xC_0000 == 0x4_0000 || value >> 32 == 0 => {
                    post(vcpu, value as u8)
                }
                _ => {}
            }
            return;
        }
        let value = match msr {
            0x1B => 0xFEE0_0D00,
            0x802 => 0,
            0x803 => 0x0005_0014,
            _ => self.msrs.get(&msr).copied().unwrap_or(0),
        };
        vcpu.regs.gpr[0] = value & 0xFFFF_FFFF;
        vcpu.regs.gpr[2] = value >> 32;
    }
}

fn cpuid(vcpu: &mut Vcpu) {
    let leaf = vcpu.regs.gpr[0] as u32;
    let sub = vcpu.regs.gpr[1] as u32;
    let osxsave = ((vcpu.regs.cr4 >> 18 & 1) as u32) << 27;
    let answer: [u32; 4] = match (leaf, sub) {
        (0, _) => [0x1F, 0x756E_6547, 0x6C65_746E, 0x4965_6E69],
        (1, _) => [
            0x806F8,
            0x10800,
            0xF6FA_3203 & !(1 << 27) & !0x1000_1000 & !(1 << 29) | osxsave,
            0x0789_FBFF,
        ],
        (4, 0) => [0x121, 0x02C0_003F, 0x3F, 0],
        (7, 0) => [
            0,
            0x209C_27A9 & !(1 << 4) & !(1 << 5),
            0x1840_0004,
            0xAC00_0400,
        ],
        (0xD, 0) => [3, 0x240, 0x240, 0],
        (0xD, 1) => [0xF, 0x240, 0, 0],
        (0x15, _) => [1, 40, 25_000_000, 0],
        (0x4000_0000, _) => [0x4000_0001, 0x4B4D_564B, 0x564B_4D56, 0x4D],
        (0x8000_0000, _) => [0x8000_0008, 0, 0, 0],
        (0x8000_0001, _) => [0, 0, 0x121, 0x2C10_0800],
        (0x8000_0007, _) => [0, 0, 0, 0x100],
        (0x8000_0008, _) => [0x3034, 0, 0, 0],
        _ => [0; 4],
    };
    for (register, value) in [0, 3, 1, 2].into_iter().zip(answer) {
        vcpu.regs.gpr[register] = u64::from(value);
    }
}
