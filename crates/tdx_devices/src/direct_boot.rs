//! What the direct-boot firmware finds: the kernel, its initrd and command line, ACPI tables and the TD HOB.
//!
//! The firmware is guests/tdfw; the addresses that both sides know are in its guests/rt/layout.rs.

use std::ops::Range;

use tdvf::{HobList, HobListFull, ResourceType};
use thiserror::Error;
use x86_arch::Gpa;

use crate::acpi;
use crate::memory_map::ram;

/// The firmware's own memory, from the TD HOB to the end of its temporary memory.
const FIRMWARE: Range<u64> = 0x81_0000..0x90_0000;
const HOB_SIZE: usize = 0x4000;
const MAILBOX: u64 = 0x88_0000;
const COMMAND_LINE: u64 = 0x90_0000;
const ACPI: u64 = 0x91_0000;
const LOG: u64 = 0x94_0000;
const LOG_SIZE: u64 = 0x1_0000;

/// The GUID extension by which the firmware knows the kernel: 5d4e1b36-84f7-4b6f-9a0d-5c2f6a7e1f21.
const DIRECT_BOOT_GUID: [u8; 16] = [
    0x36, 0x1B, 0x4E, 0x5D, 0xF7, 0x84, 0x6F, 0x4B, 0x9A, 0x0D, 0x5C, 0x2F, 0x6A, 0x7E, 0x1F, 0x21,
];

const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;

/// Why a kernel cannot be booted directly.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DirectBootError {
    #[error("the kernel is no bzImage: {0}")]
    NoBzImage(&'static str),
    #[error("the kernel is cut off: {length} bytes, its header promises {promised}")]
    Truncated { length: u64, promised: u64 },
    #[error("the command line has {length} bytes, this kernel takes {limit}")]
    CommandLine { length: u64, limit: u64 },
    #[error("the command line contains a NUL byte")]
    CommandLineNul,
    #[error("kernel and firmware need memory up to {needed:#x}, and low RAM ends at {end:#x}")]
    Memory { needed: u64, end: u64 },
    #[error(
        "the initrd has {length} bytes, and {room} are left of the guest's low RAM behind the kernel"
    )]
    Initrd { length: u64, room: u64 },
    #[error("the TD HOB does not fit: {0}")]
    Hob(HobListFull),
}

/// Memory that the TD is built with beside the firmware's image: not measured by the module, but by the firmware.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitialMemory {
    /// 4 KiB aligned.
    pub gpa: Gpa,
    /// Whole pages.
    pub bytes: Vec<u8>,
}

/// A kernel laid out for the firmware.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectBoot {
    /// Content of the firmware's TD_HOB section.
    pub hob: Vec<u8>,
    pub memory: Vec<InitialMemory>,
    /// The guest's RAM, to be declared to the TD.
    pub ram: Vec<Range<u64>>,
    /// What the firmware measures, in its order: register, event name, bytes.
    pub measured: Vec<(u8, &'static str, Vec<u8>)>,
}

/// The kernel and what goes with it.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    pub kernel: &'a [u8],
    pub initrd: &'a [u8],
    pub command_line: &'a str,
}

/// Facts of a bzImage's setup header (Linux: Documentation/arch/x86/boot.rst).
struct SetupHeader {
    /// Bytes before the part that runs.
    setup: u64,
    /// Where that part wants to lie.
    preferred: u64,
    alignment: u64,
    /// Memory it needs from there, to unpack itself.
    init_size: u64,
    command_line_limit: u64,
}

impl SetupHeader {
    fn read(kernel: &[u8]) -> Result<SetupHeader, DirectBootError> {
        let word = |at: usize, size: usize| -> u64 {
            kernel[at..at + size]
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte))
        };
        if kernel.len() < 0x268 || kernel[0x202..0x206] != *b"HdrS" {
            let elf = kernel.starts_with(b"\x7fELF");
            let why = if elf {
                "it is an ELF file (vmlinux?)"
            } else {
                "it has no HdrS signature"
            };
            return Err(DirectBootError::NoBzImage(why));
        }
        if word(0x206, 2) < 0x20C {
            return Err(DirectBootError::NoBzImage(
                "its boot protocol is older than 2.12",
            ));
        }
        if word(0x236, 2) & 1 == 0 {
            return Err(DirectBootError::NoBzImage("it has no 64-bit entry point"));
        }
        let sectors = match kernel[0x1F1] {
            0 => 4,
            n => u64::from(n),
        };
        let header = SetupHeader {
            setup: (sectors + 1) * 512,
            preferred: word(0x258, 8),
            alignment: word(0x230, 4).max(PAGE),
            init_size: word(0x260, 4),
            command_line_limit: word(0x238, 4),
        };
        // Size of the protected-mode part in 16-byte units.
        let promised = header.setup + word(0x1F4, 4) * 16;
        let length = kernel.len() as u64;
        if length < promised {
            return Err(DirectBootError::Truncated { length, promised });
        }
        if header.preferred >= 1 << 32 {
            return Err(DirectBootError::NoBzImage(
                "its preferred address is above 4 GiB",
            ));
        }
        if !header.alignment.is_power_of_two() || !header.preferred.is_multiple_of(header.alignment)
        {
            return Err(DirectBootError::NoBzImage(
                "its preferred address is not at its alignment",
            ));
        }
        Ok(header)
    }
}

/// Lays the payload out in a guest with `memory` bytes of RAM.
pub fn plan(payload: Payload<'_>, memory: u64, vcpus: u32) -> Result<DirectBoot, DirectBootError> {
    let header = SetupHeader::read(payload.kernel)?;
    let command_line = payload.command_line.as_bytes();
    let limit = header.command_line_limit.min(ACPI - COMMAND_LINE - 1);
    if command_line.len() as u64 > limit {
        return Err(DirectBootError::CommandLine {
            length: command_line.len() as u64,
            limit,
        });
    }
    if command_line.contains(&0) {
        return Err(DirectBootError::CommandLineNul);
    }
    let command_line = [command_line, &[0]].concat();

    // The file lies so that its protected-mode part is where it wants to run.
    let runs_at = header
        .preferred
        .max((LOG + LOG_SIZE).next_multiple_of(header.alignment));
    let kernel_at = runs_at - header.setup;
    let kernel_end = kernel_at + payload.kernel.len() as u64;
    let unpacked = runs_at.saturating_add(header.init_size).max(kernel_end);
    let initrd_at = unpacked.next_multiple_of(LARGE_PAGE);
    let ram = ram(memory);
    let end = ram
        .iter()
        .map(|r| r.end)
        .filter(|end| *end <= 1 << 32)
        .max()
        .unwrap_or(0);
    let room = end.checked_sub(initrd_at).ok_or(DirectBootError::Memory {
        needed: initrd_at,
        end,
    })?;
    let length = payload.initrd.len() as u64;
    if length > room {
        return Err(DirectBootError::Initrd { length, room });
    }

    let platform = acpi::Platform {
        vcpus,
        firmware: Some(acpi::FirmwareMemory {
            mailbox: MAILBOX,
            log: LOG,
            log_size: LOG_SIZE,
        }),
    };
    let acpi = acpi::tables(ACPI, platform);
    let parts: [(u64, &[u8]); 4] = [
        (COMMAND_LINE, &command_line),
        (ACPI, &acpi),
        (kernel_at, payload.kernel),
        (initrd_at, payload.initrd),
    ];
    let memory: Vec<InitialMemory> = parts
        .into_iter()
        .filter(|(_, bytes)| !bytes.is_empty())
        .map(pages)
        .collect();
    let hob = hob(&ram, &memory, &parts).map_err(DirectBootError::Hob)?;
    let measured_hob = hob[..used(&hob)].to_vec();
    Ok(DirectBoot {
        measured: vec![
            (0, "td_hob", measured_hob),
            (0, "acpi_tables", acpi),
            (1, "kernel", payload.kernel.to_vec()),
            (2, "cmdline", command_line),
            (2, "initrd", payload.initrd.to_vec()),
        ],
        hob,
        memory,
        ram,
    })
}

/// Widens a run of bytes to whole pages of zeros around it.
fn pages((start, bytes): (u64, &[u8])) -> InitialMemory {
    let gpa = Gpa::new(start).page();
    let mut whole = vec![0; (start - gpa.raw()) as usize];
    whole.extend_from_slice(bytes);
    whole.resize(whole.len().next_multiple_of(PAGE as usize), 0);
    InitialMemory { gpa, bytes: whole }
}

/// RAM that the TD is built with is system memory; the rest of it is to be accepted.
fn hob(
    ram: &[Range<u64>],
    memory: &[InitialMemory],
    parts: &[(u64, &[u8]); 4],
) -> Result<Vec<u8>, HobListFull> {
    let mut given: Vec<Range<u64>> = memory
        .iter()
        .map(|m| m.gpa.raw()..m.gpa.raw() + m.bytes.len() as u64)
        .chain([FIRMWARE])
        .collect();
    given.sort_unstable_by_key(|r| r.start);

    let mut bytes = vec![0; HOB_SIZE];
    let mut list = HobList::new(&mut bytes, Gpa::new(FIRMWARE.start))?;
    let mut add = |kind: ResourceType, range: Range<u64>| match range.is_empty() {
        true => Ok(()),
        false => list.resource(kind, Gpa::new(range.start), range.end - range.start),
    };
    for range in ram {
        let mut at = range.start;
        for part in given.iter().filter(|g| range.contains(&g.start)) {
            add(ResourceType::MEMORY_UNACCEPTED, at..part.start)?;
            add(ResourceType::SYSTEM_MEMORY, part.clone())?;
            at = part.end;
        }
        add(ResourceType::MEMORY_UNACCEPTED, at..range.end)?;
    }

    // Version, then start and length of kernel, initrd, command line, ACPI tables and log, then the RSDP.
    let [command_line, acpi, kernel, initrd] = parts.map(|(start, b)| [start, b.len() as u64]);
    let mut words = vec![1];
    for part in [kernel, initrd, command_line, acpi, [LOG, LOG_SIZE]] {
        words.extend(part);
    }
    words.push(ACPI);
    let data: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    list.guid_extension(&DIRECT_BOOT_GUID, &data)?;
    list.finish()?;
    Ok(bytes)
}

/// Length of a HOB list with its end marker.
fn used(hob: &[u8]) -> usize {
    // EFI_HOB_HANDOFF_INFO_TABLE ends with the address behind the list.
    let end = u64::from_le_bytes(hob[48..56].try_into().unwrap_or_default());
    (end.saturating_sub(FIRMWARE.start) as usize).min(hob.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direct_boot_fuzz::small_bzimage;

    fn bzimage() -> Vec<u8> {
        let mut kernel = small_bzimage();
        kernel.resize(0x3000, 0);
        // The length that the setup header's jump at 0x200 gives it.
        kernel[0x201] = 0x6A;
        kernel
    }

    fn planned(kernel: &[u8], initrd: &[u8], memory: u64) -> Result<DirectBoot, DirectBootError> {
        plan(
            Payload {
                kernel,
                initrd,
                command_line: "console=ttyS0",
            },
            memory,
            1,
        )
    }

    #[test]
    fn the_running_part_lies_where_it_wants_to_run() {
        let kernel = bzimage();
        let plan = planned(&kernel, b"initrd", 64 << 20).expect("it fits");
        let at = 0x100_0000 - 5 * 512;
        let image = plan
            .memory
            .iter()
            .find(|m| m.gpa == Gpa::new(at).page())
            .expect("the kernel");
        let offset = (at % PAGE) as usize;
        assert_eq!(image.bytes[offset..offset + kernel.len()], kernel);
        assert!(
            plan.memory
                .iter()
                .all(|m| m.bytes.len() % 4096 == 0 && m.gpa.is_aligned(PAGE))
        );
        let initrd = plan.memory.last().expect("the initrd");
        assert_eq!(initrd.gpa.raw(), 0x120_0000);
        assert!(initrd.bytes.starts_with(b"initrd"));
    }

    #[test]
    fn every_byte_of_ram_is_described_once() {
        let plan = planned(&bzimage(), &[1; 5000], 3 << 30).expect("it fits");
        let (mut at, mut total, mut end) = (0, 0, 0);
        loop {
            let kind = u16::from_le_bytes([plan.hob[at], plan.hob[at + 1]]);
            let size = u16::from_le_bytes([plan.hob[at + 2], plan.hob[at + 3]]) as usize;
            let word = |o: usize| {
                u64::from_le_bytes(
                    plan.hob[at + o..at + o + 8]
                        .try_into()
                        .expect("eight bytes"),
                )
            };
            if kind == 3 {
                assert!(word(32) >= end, "ranges ascend");
                end = word(32) + word(40);
                total += word(40);
            }
            if kind == 0xFFFF {
                assert_eq!(at + 8, used(&plan.hob));
                break;
            }
            at += size;
        }
        assert_eq!(total, plan.ram.iter().map(|r| r.end - r.start).sum::<u64>());
    }

    #[test]
    fn wrong_kernels_are_named_for_what_they_are() {
        let refused = |kernel: &[u8]| {
            planned(kernel, &[], 64 << 20)
                .expect_err("refused")
                .to_string()
        };
        assert_eq!(
            refused(&[0; 100]),
            "the kernel is no bzImage: it has no HdrS signature"
        );
        let mut elf = vec![0; 0x2000];
        elf[..4].copy_from_slice(b"\x7fELF");
        assert_eq!(
            refused(&elf),
            "the kernel is no bzImage: it is an ELF file (vmlinux?)"
        );
        let kernel = bzimage();
        let cut = refused(&kernel[..0x1800]);
        assert_eq!(
            cut,
            "the kernel is cut off: 6144 bytes, its header promises 6656"
        );
        let large = planned(&kernel, &vec![0; 64 << 20], 64 << 20).expect_err("refused");
        assert_eq!(
            large.to_string(),
            "the initrd has 67108864 bytes, and 48234496 are left of the guest's low RAM behind the kernel"
        );
        let small = planned(&kernel, &[], 16 << 20).expect_err("refused");
        assert!(matches!(small, DirectBootError::Memory { .. }));
    }

    #[test]
    fn any_bytes_as_a_kernel_are_refused_or_laid_out() {
        let mut kernel = bzimage();
        for i in 0..kernel.len().min(0x300) {
            for value in [0, 0x7F, 0xFF] {
                let before = std::mem::replace(&mut kernel[i], value);
                // No panic, and nothing above what RAM there is.
                if let Ok(plan) = planned(&kernel, b"x", 256 << 20) {
                    let end = |m: &InitialMemory| m.gpa.raw() + m.bytes.len() as u64;
                    assert!(plan.memory.iter().all(|m| end(m) <= 256 << 20));
                }
                kernel[i] = before;
            }
        }
    }
}
