//! The zero page and the jump (Linux: Documentation/arch/x86/boot.rst, 64-bit boot protocol).

use core::arch::asm;

use crate::direct_boot::DirectBoot;
use crate::rt::hob::{Hobs, SYSTEM_MEMORY, UNACCEPTED_MEMORY};
use crate::rt::layout::{FIRMWARE_END, HOB_BASE};

#[repr(C, align(4096))]
struct ZeroPage([u8; 4096]);
static mut ZERO_PAGE: ZeroPage = ZeroPage([0; 4096]);

/// E820 types.
const RAM: u32 = 1;
const RESERVED: u32 = 2;
const ACPI: u32 = 3;
const NVS: u32 = 4;

/// Where a PC has video memory and ROMs: memory, but not for the kernel's own use.
const LEGACY_HOLE: (u64, u64, u32) = (0xA_0000, 0x10_0000, RESERVED);

/// The loaded kernel is ready to be entered.
pub struct Entry {
    address: u64,
    zero_page: u64,
}

/// Checks the kernel's setup header and fills the zero page.
pub fn prepare(boot: &DirectBoot, hobs: &Hobs<'_>) -> Result<Entry, &'static str> {
    let kernel = boot.kernel();
    let header_end = 0x202 + usize::from(*kernel.get(0x201).ok_or("the kernel is cut off")?);
    if kernel.len() < 0x1000 || kernel[0x202..0x206] != *b"HdrS" || half(kernel, 0x206) < 0x20C {
        return Err("the kernel is no bzImage of boot protocol 2.12 or later");
    }
    if half(kernel, 0x236) & 1 == 0 {
        return Err("the kernel has no 64-bit entry point");
    }
    let setup_sectors = match kernel[0x1F1] {
        0 => 4,
        n => u64::from(n),
    };
    let loaded = boot.kernel_start() + (setup_sectors + 1) * 512;
    let alignment = u64::from(word(kernel, 0x230)).max(1);
    if !loaded.is_multiple_of(alignment) {
        return Err("the kernel is not loaded at its alignment");
    }

    // SAFETY: only the first vCPU comes here, once.
    let page = unsafe { &mut (*(&raw mut ZERO_PAGE)).0 };
    page[0x1F1..header_end].copy_from_slice(&kernel[0x1F1..header_end]);
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    let initrd = boot.initrd_range();
    put(0x070, &boot.rsdp.to_le_bytes());
    put(0x210, &[0xFF]);
    put(0x214, &(loaded as u32).to_le_bytes());
    put(0x218, &(initrd.start as u32).to_le_bytes());
    put(0x21C, &(initrd.length as u32).to_le_bytes());
    put(0x228, &(boot.command_line_start() as u32).to_le_bytes());
    let count = e820(boot, hobs, |i, entry| put(0x2D0 + 20 * i, entry))?;
    put(0x1E8, &[count as u8]);
    Ok(Entry {
        address: loaded + 0x200,
        zero_page: page.as_ptr() as u64,
    })
}

/// Memory as the kernel shall see it: the VMM's ranges, less what stays the firmware's.
fn e820(
    boot: &DirectBoot,
    hobs: &Hobs<'_>,
    mut put: impl FnMut(usize, &[u8]),
) -> Result<usize, &'static str> {
    // In ascending order and apart from each other.
    let mut holes = [
        LEGACY_HOLE,
        // Not reserved: Linux would map the mailbox as shared memory.
        (HOB_BASE, FIRMWARE_END, NVS),
        (
            boot.acpi.start,
            boot.acpi.end().next_multiple_of(4096),
            ACPI,
        ),
        (boot.log.start, boot.log.end().next_multiple_of(4096), NVS),
    ];
    holes.sort_unstable();
    let mut count = 0;
    let mut add = |start: u64, end: u64, kind: u32| -> Result<(), &'static str> {
        if start >= end {
            return Ok(());
        }
        if count == 128 {
            return Err("the TD HOB has too many memory ranges");
        }
        let mut entry = [0; 20];
        entry[..8].copy_from_slice(&start.to_le_bytes());
        entry[8..16].copy_from_slice(&(end - start).to_le_bytes());
        entry[16..].copy_from_slice(&kind.to_le_bytes());
        put(count, &entry);
        count += 1;
        Ok(())
    };
    for memory in hobs
        .resources()
        .filter(|r| matches!(r.kind, SYSTEM_MEMORY | UNACCEPTED_MEMORY))
    {
        let end = memory.start.saturating_add(memory.length);
        let mut at = memory.start;
        for (hole, hole_end, kind) in holes {
            let (hole, hole_end) = (hole.clamp(at, end), hole_end.clamp(at, end));
            add(at, hole, RAM)?;
            add(hole, hole_end, kind)?;
            at = hole_end;
        }
        add(at, end, RAM)?;
    }
    Ok(count)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// The protocol's segments: code at 0x10, data at 0x18.
static GDT: [u64; 4] = [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];

impl Entry {
    pub fn jump(self) -> ! {
        let gdt = Pointer {
            limit: 31,
            base: GDT.as_ptr() as u64,
        };
        // SAFETY: the zero page is complete, the kernel lies at its address, and interrupts are off.
        unsafe {
            asm!(
                "lgdt [{gdt}]",
                "mov ds, {data:e}",
                "mov es, {data:e}",
                "mov ss, {data:e}",
                "push 0x10",
                "push {entry}",
                "retfq",
                gdt = in(reg) &raw const gdt,
                data = in(reg) 0x18u64,
                entry = in(reg) self.address,
                in("rsi") self.zero_page,
                options(noreturn)
            )
        }
    }
}
