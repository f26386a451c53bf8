//! The processor while it runs: the vCPU's state, unpacked for speed, and what belongs to one run.

use crate::fault::Fault;
use crate::flags::{self, Flags};
use crate::platform::Platform;
use crate::tlb::Tlb;
use crate::translate::entry::Frame;
use crate::translate::lockstep::Rehearsal;
use crate::width::Width;
use x86_arch::RamPage;
use x86_arch::vmx::{Seg, Vcpu};

/// Control-register and EFER bits by the manual's names.
pub mod bits {
    pub const CR0_PE: u64 = 1;
    pub const CR0_MP: u64 = 1 << 1;
    pub const CR0_EM: u64 = 1 << 2;
    pub const CR0_TS: u64 = 1 << 3;
    pub const CR0_ET: u64 = 1 << 4;
    pub const CR0_NE: u64 = 1 << 5;
    pub const CR0_WP: u64 = 1 << 16;
    pub const CR0_AM: u64 = 1 << 18;
    pub const CR0_NW: u64 = 1 << 29;
    pub const CR0_CD: u64 = 1 << 30;
    pub const CR0_PG: u64 = 1 << 31;
    pub const CR4_VME: u64 = 1;
    pub const CR4_TSD: u64 = 1 << 2;
    pub const CR4_DE: u64 = 1 << 3;
    pub const CR4_PSE: u64 = 1 << 4;
    pub const CR4_PAE: u64 = 1 << 5;
    pub const CR4_PGE: u64 = 1 << 7;
    pub const CR4_PCE: u64 = 1 << 8;
    pub const CR4_OSFXSR: u64 = 1 << 9;
    pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
    pub const CR4_UMIP: u64 = 1 << 11;
    pub const CR4_LA57: u64 = 1 << 12;
    pub const CR4_FSGSBASE: u64 = 1 << 16;
    pub const CR4_PCIDE: u64 = 1 << 17;
    pub const CR4_OSXSAVE: u64 = 1 << 18;
    pub const CR4_SMEP: u64 = 1 << 20;
    pub const CR4_SMAP: u64 = 1 << 21;
    pub const CR4_PKE: u64 = 1 << 22;
    pub const CR4_CET: u64 = 1 << 23;
    pub const CR4_PKS: u64 = 1 << 24;
    pub const EFER_SCE: u64 = 1;
    pub const EFER_LME: u64 = 1 << 8;
    pub const EFER_LMA: u64 = 1 << 10;
    pub const EFER_NXE: u64 = 1 << 11;
}

/// How code is decoded: by CS.L and CS.D.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Mode {
    Bits16 = 16,
    Bits32 = 32,
    Bits64 = 64,
}

impl Mode {
    /// What the instruction pointer is cut to.
    #[inline(always)]
    pub const fn ip_mask(self) -> u64 {
        match self {
            Mode::Bits64 => u64::MAX,
            // EIP is 32 bits wide in 16-bit code too; branches cut it to 16 themselves.
            Mode::Bits32 | Mode::Bits16 => 0xFFFF_FFFF,
        }
    }
}

/// Entries of [`Cpu::gpr`] beyond the sixteen registers, so that an address is one sum without branches.
pub const REG_PAGE: u8 = 16;
/// Always 0.
pub const REG_ZERO: u8 = 17;
/// Plus the segment register's encoding: the base that addresses through it get in this mode.
pub const REG_SEG: u8 = 24;

/// Translated code finds the first two fields by their places.
#[repr(C)]
pub struct Cpu<'a, P: RamPage> {
    /// The sixteen registers, then [`REG_PAGE`], [`REG_ZERO`] and the segment bases.
    pub gpr: [u64; 32],
    pub(crate) frame: Frame,
    pub flags: Flags,
    /// RFLAGS without the arithmetic flags; bit 1 set.
    pub system_flags: u64,
    /// The instruction being executed (in a block of plain instructions: that block's first one).
    pub rip: u64,
    /// Where execution goes on; branches write it.
    pub next_rip: u64,
    /// Bytes of the instruction being executed (not kept for hot forms, which cannot exit).
    pub length: u8,
    pub mode: Mode,
    pub cpl: u8,
    /// Added to tags of the soft TLB: address space and the permission class of accesses.
    pub(crate) tag: u64,
    pub(crate) tlb: &'a mut Tlb<P>,
    /// Registers not unpacked above, and everything else of the vCPU.
    pub vcpu: &'a mut Vcpu,
    pub platform: &'a mut dyn Platform<Page = P>,
    /// Instructions completed in this run before the current block.
    pub retired: u64,
    /// Ticks that passed without instructions (PAUSE), on top of `retired`.
    pub(crate) waited: u64,
    /// When PAUSE last ran in ring 0, and when the loop of PAUSEs it belongs to began (TSC ticks).
    pub(crate) pauses: Option<(u64, u64)>,
    /// A VM exit that follows the current instruction.
    pub(crate) pending_trap: Option<x86_arch::VmExit>,
    /// Something that is looked at between instructions changed (events, shadows, traps, modes).
    pub attention: bool,
    /// CR2's value for the #PF being raised.
    pub fault_address: u64,
    /// An event is being delivered: nested faults make #DF and EPT violations carry IDT-vectoring information.
    pub(crate) delivering: Option<crate::event::Event>,
    /// Debug conditions (DR6 bits) met by the current instruction.
    pub(crate) debug_hits: u64,
    /// A bus lock was met (SDM 26.2: bus-lock VM exit follows the instruction).
    pub(crate) bus_lock: bool,
    /// NMI blocking ended by the IRET being executed (qualification bit 12).
    pub(crate) nmi_unblocked: bool,
    /// What is executed is undone afterwards (lockstep).
    pub(crate) rehearsal: Option<Box<Rehearsal<P>>>,
}

impl<'a, P: RamPage + 'static> Cpu<'a, P> {
    pub fn new(
        vcpu: &'a mut Vcpu,
        tlb: &'a mut Tlb<P>,
        platform: &'a mut dyn Platform<Page = P>,
    ) -> Self {
        let mut gpr = [0; 32];
        gpr[..16].copy_from_slice(&vcpu.regs.gpr);
        let mut cpu = Cpu {
            gpr,
            frame: Frame::default(),
            flags: Flags::from_rflags(vcpu.regs.rflags),
            system_flags: vcpu.regs.rflags & flags::DEFINED & !flags::ARITHMETIC | 2,
            rip: vcpu.regs.rip,
            next_rip: vcpu.regs.rip,
            length: 0,
            mode: Mode::Bits32,
            cpl: 0,
            tag: 0,
            tlb,
            vcpu,
            platform,
            retired: 0,
            waited: 0,
            pauses: None,
            pending_trap: None,
            attention: true,
            fault_address: 0,
            delivering: None,
            debug_hits: 0,
            bus_lock: false,
            nmi_unblocked: false,
            rehearsal: None,
        };
        cpu.mode_changed();
        cpu
    }

    /// Puts the unpacked registers back into the vCPU.
    pub fn store(&mut self) {
        self.vcpu.regs.gpr.copy_from_slice(&self.gpr[..16]);
        self.vcpu.regs.rflags = self.rflags();
        self.vcpu.regs.rip = self.rip;
        // The "IA-32e mode guest" entry control follows the guest (SDM 28.3.1).
        let entry = self.vcpu.controls.entry & !(1 << 9);
        self.vcpu.controls.entry = entry | u32::from(self.long_mode()) << 9;
    }

    /// Virtual time of this run: instructions, and ticks spent waiting.
    pub fn time(&self) -> u64 {
        self.retired + self.waited
    }

    // ---- registers ----

    #[inline(always)]
    pub fn reg(&self, index: u8) -> u64 {
        self.gpr[(index & 31) as usize]
    }
    /// Writes a register the way an operand of that width is written: 32 bits clear the upper half, 8 and 16 keep
    /// the rest.
    #[inline(always)]
    pub fn set_reg<W: Width>(&mut self, index: u8, value: W) {
        let register = &mut self.gpr[(index & 31) as usize];
        *register = match W::BYTES {
            8 | 4 => value.zext(),
            2 => *register & !0xFFFF | value.zext(),
            _ => *register & !0xFF | value.zext(),
        };
    }
    /// RFLAGS as PUSHF sees it, RF included.
    pub fn rflags(&self) -> u64 {
        self.system_flags | self.flags.bits()
    }
    /// Replaces RFLAGS whole.
    pub fn set_rflags(&mut self, rflags: u64) {
        self.flags = Flags::from_rflags(rflags);
        self.set_system_flags(rflags);
    }
    /// Replaces the flags that are not arithmetic.
    pub fn set_system_flags(&mut self, rflags: u64) {
        let new = rflags & flags::DEFINED & !flags::ARITHMETIC | 2;
        let changed = new ^ self.system_flags;
        self.system_flags = new;
        // Nothing comes of interrupts being disabled.
        if changed & (flags::TF | flags::RF | new & flags::IF) != 0 {
            self.attention = true;
        }
        if changed & flags::AC != 0 {
            self.update_tag();
        }
    }
    /// Puts the bits of `mask` in the system flags to those of `values`.
    pub fn change_system_flags(&mut self, mask: u64, values: u64) {
        self.set_system_flags(self.system_flags & !mask | values & mask);
    }
    pub fn iopl(&self) -> u8 {
        (self.system_flags >> 12 & 3) as u8
    }
    pub fn cr0(&self) -> u64 {
        self.vcpu.regs.cr0
    }
    pub fn cr4(&self) -> u64 {
        self.vcpu.regs.cr4
    }
    pub fn efer(&self) -> u64 {
        self.vcpu.regs.msr.efer
    }
    pub fn long_mode(&self) -> bool {
        self.efer() & bits::EFER_LMA != 0
    }
    /// In 64-bit code.
    #[inline(always)]
    pub fn is_64(&self) -> bool {
        self.mode == Mode::Bits64
    }
    pub fn paging(&self) -> bool {
        self.cr0() & bits::CR0_PG != 0
    }
    /// Whether the address is canonical for the current paging mode (48 or 57 bits).
    #[inline]
    pub fn is_canonical(&self, address: u64) -> bool {
        let width = if self.cr4() & bits::CR4_LA57 != 0 {
            57
        } else {
            48
        };
        let shift = 64 - width;
        ((address << shift) as i64 >> shift) as u64 == address
    }

    // ---- checks that instructions begin with ----

    /// #GP(0) unless CPL is 0.
    pub fn need_cpl0(&self) -> Result<(), Fault> {
        if self.cpl == 0 {
            Ok(())
        } else {
            Err(Fault::GP0)
        }
    }

    // ---- consequences of changed state ----

    /// After CS, CR0, CR4, EFER or CPL changed: decode mode, segment bases, TLB tag.
    pub fn mode_changed(&mut self) {
        let cs = self.vcpu.regs.segments[Seg::Cs as usize];
        self.mode = if self.long_mode() && cs.access & 1 << 13 != 0 {
            Mode::Bits64
        } else if cs.access & 1 << 14 != 0 {
            Mode::Bits32
        } else {
            Mode::Bits16
        };
        // SS.DPL is the CPL (SDM 25.4.1).
        self.cpl = (self.vcpu.regs.segments[Seg::Ss as usize].access >> 5 & 3) as u8;
        self.bases_changed();
        self.update_tag();
        self.attention = true;
    }

    /// After a segment base changed.
    pub fn bases_changed(&mut self) {
        for (index, segment) in self.vcpu.regs.segments.iter().enumerate() {
            let used = !self.is_64() || index >= Seg::Fs as usize;
            self.gpr[REG_SEG as usize + index] = if used { segment.base } else { 0 };
        }
    }

    /// The address space and permission class that data accesses and fetches have from now on.
    pub fn update_tag(&mut self) {
        let regs = &self.vcpu.regs;
        let ac = self.system_flags & flags::AC != 0;
        let slow = regs.dr7 & 0xFF != 0 || (self.cpl == 3 && ac && regs.cr0 & bits::CR0_AM != 0);
        let mut class = u64::from(self.cpl == 3);
        if self.cpl != 3 && regs.cr4 & bits::CR4_SMAP != 0 && !ac {
            class |= 2;
        }
        self.tag = self.tlb.tag(class, slow);
    }
}
