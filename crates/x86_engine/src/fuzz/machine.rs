//! The machine that generated programs run on: memory, two address spaces, descriptor tables and handlers.
//!
//! Two regions of linear memory hold the programs. Both name the same pages, four MiB apart, so that they meet in
//! every set of the TLB; some pages differ between the address spaces. Exceptions go on at another place of the
//! program, so that nothing ends it; page faults mostly make the page present and try again.

use crate::flat::{FlatGuest, long_vcpu};
use x86_arch::vmx::{Seg, Segment, TableRegister, Vcpu};

/// The page tables of each address space: PML4, PDPT, PD, then the tables of the low pages and of both regions.
pub(super) const SPACES: [u64; 2] = [0x1000, 0x8000];
pub(super) const REGIONS: [u64; 2] = [0x20_0000, 0x60_0000];
const GDT: u64 = 0xE000;
const IDT: u64 = 0xF000;
const HANDLERS: u64 = 0x1_0000;
/// Faults, then interrupts.
const COUNTS: u64 = 0x1_1000;
/// Of each processor.
const TSS: [u64; 2] = [0xE800, 0xE900];
const FAULT_STACK: [u64; 2] = [0x1_2800, 0x1_3000];
/// The first page of the programs, and their number.
const FRAMES: u64 = 0x2_0000;
pub(super) const PAGES: u64 = 24;
pub(super) const MEMORY: u64 = 0x4_0000;

/// Page numbers in a region.
pub(super) const KERNEL_CODE: u64 = 0;
pub(super) const USER_CODE: u64 = 4;
pub(super) const DATA: u64 = 8;
pub(super) const KERNEL_STACK: u64 = 16;
pub(super) const USER_STACK: u64 = 18;
pub(super) const CODE_PAGES: u64 = 8;
/// Places where code begins in a page.
pub(super) const SLOTS: u64 = 8;
pub(super) const SLOT: u64 = 4096 / SLOTS;
/// Addresses for indirect jumps: eight of the kernel, then eight of the user.
pub(super) const TABLE: u64 = REGIONS[0] + (DATA + 7) * 0x1000 + 0x800;

pub(super) const KERNEL_CS: u8 = 0x08;
pub(super) const KERNEL_SS: u8 = 0x10;
pub(super) const USER_CS: u8 = 0x2B;
pub(super) const USER_SS: u8 = 0x23;
const INTERRUPTS: std::ops::Range<u64> = 0x30..0x60;

/// The physical address of a program page in an address space.
pub(super) fn frame(space: usize, page: u64) -> u64 {
    let frame = match page {
        // Aliases of code, which user mode may write.
        20 => KERNEL_CODE,
        21 => USER_CODE,
        22 => USER_CODE + 1,
        23 => KERNEL_CODE + 3,
        2 | 3 | 4 | 5 | 8 | 9 if space == 1 => page ^ 1,
        page => page,
    };
    FRAMES + frame * 0x1000
}

/// The address of the page-table entry of a program page.
pub(super) fn entry(space: usize, region: usize, page: u64) -> u64 {
    SPACES[space] + 0x4000 + region as u64 * 0x1000 + page * 8
}

/// CR3 for an address space.
pub(super) fn cr3(space: usize) -> u64 {
    SPACES[space] | (space as u64 + 1)
}

/// Makes memory as the programs find it. `large`: the low 2 MiB are one page.
pub(super) fn machine(large: bool) -> FlatGuest {
    let mut guest = FlatGuest::new(MEMORY);
    for (space, tables) in SPACES.into_iter().enumerate() {
        guest.put_u64(tables, tables + 0x1000 | 7);
        guest.put_u64(tables + 0x1000, tables + 0x2000 | 7);
        let low = if large { 0x83 } else { tables + 0x3000 | 3 };
        guest.put_u64(tables + 0x2000, low);
        for page in 0..512 {
            guest.put_u64(tables + 0x3000 + page * 8, page << 12 | 3);
        }
        for (region, linear) in REGIONS.into_iter().enumerate() {
            let table = tables + 0x4000 + region as u64 * 0x1000;
            guest.put_u64(tables + 0x2000 + (linear >> 21) * 8, table | 7);
            for page in 0..PAGES {
                let supervisor = page < USER_CODE || (KERNEL_STACK..USER_STACK).contains(&page);
                let rights = if supervisor { 3 } else { 7 };
                guest.put_u64(entry(space, region, page), frame(space, page) | rights);
            }
        }
    }
    for (n, descriptor) in [
        0u64,
        0x00AF_9B00_0000_FFFF, // 08: code, ring 0
        0x00CF_9300_0000_FFFF, // 10: data, ring 0
        0x00CF_FB00_0000_FFFF, // 18: 32-bit code, ring 3
        0x00CF_F300_0000_FFFF, // 20: data, ring 3
        0x00AF_FB00_0000_FFFF, // 28: code, ring 3
    ]
    .into_iter()
    .enumerate()
    {
        guest.put_u64(GDT + n as u64 * 8, descriptor);
    }
    for (tss, stack) in TSS.into_iter().zip(FAULT_STACK) {
        guest.put_u64(tss + 4, stack);
        guest.put_u64(tss + 0x24, stack); // IST 1
    }
    for vector in 0..256 {
        let handler = HANDLERS + vector * 16;
        guest.put_u64(
            IDT + vector * 16,
            handler & 0xFFFF | 8 << 16 | 0xEE01 << 32 | (handler >> 16) << 48,
        );
        let kind = match vector {
            14 => PAGE_FAULT,
            8 | 10..=13 | 17 => WITH_ERROR,
            _ if INTERRUPTS.contains(&vector) => INTERRUPT,
            _ => PLAIN,
        };
        // jmp
        let distance = (COMMON + kind * 0x100) as i64 - (handler as i64 + 5);
        guest.put(handler, &[0xE9]);
        guest.put(handler + 1, &(distance as i32).to_le_bytes());
    }
    guest.put(COMMON + PLAIN * 0x100, &fault(0));
    guest.put(COMMON + WITH_ERROR * 0x100, &fault(8));
    guest.put(COMMON + PAGE_FAULT * 0x100, &page_fault());
    guest.put(COMMON + INTERRUPT * 0x100, &interrupt());
    guest
}

/// The handlers behind the vectors' jumps, 256 bytes each.
const COMMON: u64 = 0x1_4000;
const PLAIN: u64 = 0;
const WITH_ERROR: u64 = 1;
const PAGE_FAULT: u64 = 2;
const INTERRUPT: u64 = 3;

fn at(opcode: &[u8], address: u64) -> Vec<u8> {
    let mut bytes = opcode.to_vec();
    bytes.extend((address as u32).to_le_bytes());
    bytes
}

/// Goes on at one of the code slots of the same privilege, by the number of faults so far. RAX and RCX are lost; the
/// return address is at RSP + `frame`.
fn go_elsewhere(frame: u8) -> Vec<u8> {
    let mut code = at(&[0x8B, 0x04, 0x25], COUNTS); // mov eax, [COUNTS]
    code.extend([0x89, 0xC1, 0x83, 0xE0, 3]); // mov ecx, eax; and eax, 3
    code.extend([0xF6, 0x44, 0x24, frame + 8, 3]); // test byte [rsp + CS], 3
    code.extend([0x74, 3, 0x83, 0xC0, USER_CODE as u8]); // jz +3; add eax, USER_CODE
    code.extend([0xC1, 0xE0, 12]); // shl eax, 12
    code.extend([0xC1, 0xE9, 2, 0x83, 0xE1, 7, 0xC1, 0xE1, 9]); // shr ecx, 2; and ecx, 7; shl ecx, 9
    code.extend(at(&[0x8D, 0x84, 0x08], REGIONS[0])); // lea eax, [rax + rcx + region]
    code.extend([0x48, 0x89, 0x44, 0x24, frame]); // mov [rsp + RIP], rax
    code
}

/// A handler for exceptions; `error` is the size of the error code.
fn fault(error: u8) -> Vec<u8> {
    let mut code = vec![0x50, 0x51, 0x0F, 0x06]; // push rax; push rcx; clts
    code.extend(at(&[0xFF, 0x04, 0x25], COUNTS)); // inc dword [COUNTS]
    code.extend(go_elsewhere(16 + error));
    code.extend([0x59, 0x58]); // pop rcx; pop rax
    code.extend([0x48, 0x83, 0xC4, error, 0x48, 0xCF]); // add rsp, error; iretq
    code
}

/// Three times of four: the page's entry becomes present, writable and the user's.
fn page_fault() -> Vec<u8> {
    let mut code = vec![0x50, 0x51, 0x52]; // push rax, rcx, rdx
    code.extend(at(&[0xFF, 0x04, 0x25], COUNTS)); // inc dword [COUNTS]
    code.extend(at(&[0xF6, 0x04, 0x25], COUNTS));
    code.push(3); // test byte [COUNTS], 3
    let mut repair = vec![0x0F, 0x20, 0xD0, 0x48, 0x89, 0xC2]; // mov rax, cr2; mov rdx, rax
    repair.extend([0x48, 0xC1, 0xE8, 12, 0x89, 0xC1]); // shr rax, 12; mov ecx, eax
    repair.extend([0x25, 0xFF, 1, 0, 0]); // and eax, 0x1FF
    repair.extend([0x81, 0xE1, 0, 4, 0, 0, 0xD1, 0xE9, 9, 0xC8]); // and ecx, 0x400; shr ecx, 1; or eax, ecx
    repair.extend([0x0F, 0x20, 0xD9, 0x81, 0xE1, 0, 0xF0, 0xFF, 0xFF]); // mov rcx, cr3; and ecx, ~0xFFF
    repair.extend([0x48, 0x83, 0x8C, 0xC1, 0, 0x40, 0, 0, 7]); // or qword [rcx + rax * 8 + 0x4000], 7
    repair.extend([0x0F, 0x01, 0x3A]); // invlpg [rdx]
    let elsewhere = go_elsewhere(24 + 8);
    repair.extend([0xEB, elsewhere.len() as u8]); // jmp over
    code.extend([0x74, repair.len() as u8]); // jz
    code.extend(repair);
    code.extend(elsewhere);
    code.extend([0x5A, 0x59, 0x58, 0x48, 0x83, 0xC4, 8, 0x48, 0xCF]); // pop them; add rsp, 8; iretq
    code
}

/// Counts, and ends the interrupt.
fn interrupt() -> Vec<u8> {
    let mut code = vec![0x50, 0x51, 0x52]; // push rax, rcx, rdx
    code.extend(at(&[0xFF, 0x04, 0x25], COUNTS + 8)); // inc dword [COUNTS + 8]
    code.extend([0xB9, 0x0B, 8, 0, 0, 0x31, 0xC0, 0x31, 0xD2]); // mov ecx, 0x80B; xor eax, eax; xor edx, edx
    code.extend([0x0F, 0x30, 0x5A, 0x59, 0x58, 0x48, 0xCF]); // wrmsr; pop them; iretq
    code
}

/// Faults and interrupts that the handlers counted.
pub(super) fn counts(guest: &mut FlatGuest) -> (u64, u64) {
    (guest.get_u64(COUNTS), guest.get_u64(COUNTS + 8))
}

/// A processor in ring 0 at the beginning of a kernel page.
pub(super) fn processor(number: usize) -> Vcpu {
    let mut scratch = FlatGuest::new(MEMORY);
    let mut vcpu = long_vcpu(&mut scratch, SPACES[0], 0);
    let regs = &mut vcpu.regs;
    regs.cr3 = cr3(0);
    regs.cr4 |= 1 << 17; // PCIDE
    regs.gdtr = TableRegister {
        base: GDT,
        limit: 0x2F,
    };
    regs.idtr = TableRegister {
        base: IDT,
        limit: 0xFFF,
    };
    regs.tr = Segment {
        selector: 0x40,
        limit: 0x67,
        access: 0x8B,
        base: TSS[number],
    };
    regs.segments[Seg::Cs as usize].selector = KERNEL_CS.into();
    regs.segments[Seg::Ss as usize].selector = KERNEL_SS.into();
    regs.msr.star = 0x0018_0008 << 32;
    regs.msr.lstar = REGIONS[0] + KERNEL_CODE * 0x1000 + SLOT;
    regs.msr.fmask = 0x0004_0700;
    regs.msr.kernel_gs_base = REGIONS[1] + DATA * 0x1000;
    regs.rflags = 0x202;
    regs.rip = REGIONS[0] + (KERNEL_CODE + number as u64) * 0x1000;
    regs.gpr[4] = REGIONS[0] + (KERNEL_STACK + number as u64) * 0x1000 + 0x1000;
    regs.gpr[12] = REGIONS[0] + DATA * 0x1000;
    regs.gpr[13] = 5;
    regs.gpr[14] = REGIONS[1] + DATA * 0x1000;
    // HLT and I/O exit; MSRs do not; virtual interrupts; EPT and VPID.
    vcpu.controls.primary = 1 << 7 | 1 << 21 | 1 << 24 | 1 << 28 | 1 << 31;
    vcpu.controls.secondary = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 12 | 1 << 20;
    vcpu.controls.pin = 1;
    vcpu.controls.vpid = VPID;
    vcpu.msr_bitmap.bits = [[0; 1024]; 4];
    vcpu
}

pub(super) const VPID: u16 = 1;
