//! The typed exits of TDH.VP.ENTER.

use tdx_abi::Status;

use super::TdvmcallMask;
use crate::{GprFile, Window, XmmFile};

/// RAX and the information words of a TDH.VP.ENTER; never stored into the vCPU's register file.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct ExitWords {
    pub rax: Status,
    /// Exit qualification and VM index; the mask and the VM index after a TDVMCALL.
    pub rcx: u64,
    /// Extended exit qualification; 0 after a TDVMCALL.
    pub rdx: u64,
    /// Guest physical address; 0 after a TDVMCALL.
    pub r8: u64,
    /// VM-exit interruption information; 0 after a TDVMCALL.
    pub r9: u64,
}

/// How a TDH.VP.ENTER ended, told from RAX alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitKind {
    /// The entry was refused: only RAX says something, and no register of the VMM changed.
    NotEntered,
    /// TDG.VP.VMCALL: RCX is the mask, and exactly its registers are the guest's.
    Tdvmcall,
    /// Any other TD exit: RAX, RCX, RDX, R8 and R9 are exit information, no register is the guest's.
    Asynchronous,
}

/// An exit, with the registers that it lends to the VMM.
#[derive(Debug)]
pub enum Exit<'a> {
    /// The guest calls its VMM.
    Tdvmcall(Tdvmcall<'a>),
    /// An asynchronous exit: no registers here, none were shown.
    Opaque(ExitWords),
    /// A DEBUG TD stopped: every register, which the caller reads and writes with TDH.VP.RD and TDH.VP.WR
    /// (`Window::written` tells which to write back).
    Debug(ExitWords, Window<'a, GprFile>),
    /// The TD was not entered.
    NotEntered(Status),
}

/// A TDVMCALL exit: windows of exactly the mask's registers, both ways.
#[derive(Debug)]
pub struct Tdvmcall<'a> {
    pub gprs: Window<'a, GprFile>,
    /// `None` where the VMM keeps no XMM registers for this vCPU.
    pub xmms: Option<Window<'a, XmmFile>>,
    pub mask: TdvmcallMask,
    /// 0: the TD itself, 1 to 3: its L2 VM.
    pub vm: u8,
}

impl ExitWords {
    /// Bits 31:0 of RAX of a TD exit: the VMX exit reason.
    const TDCALL: u64 = 77;
    /// Set in the exit reason when a bus lock was taken since the last exit.
    const BUS_LOCK: u64 = 1 << 26;

    /// The kind of exit (spec: vp-enter.md 12).
    pub const fn kind(&self) -> ExitKind {
        Self::kind_of(self.rax)
    }

    /// The same from RAX alone.
    pub const fn kind_of(rax: Status) -> ExitKind {
        if rax.0 & !Self::BUS_LOCK == Self::TDCALL {
            return ExitKind::Tdvmcall;
        }
        match (rax.0 >> 32) as u32 {
            0 => ExitKind::Asynchronous,
            // TD exits with a status of their own: the vCPU or the TD is lost, a cross-TD event, a lock that a
            // guest waited for too long, and the three stops of a debugger at an L2 transition.
            0x4000_0001 | 0x6000_0002 | 0x6000_0005 | 0xE000_0007 | 0x6000_000A | 0x8000_0008
            | 0x9000_0009 | 0x9000_0205 | 0x0000_1140 | 0x0000_1141 | 0x0000_1142 => {
                ExitKind::Asynchronous
            }
            _ => ExitKind::NotEntered,
        }
    }

    /// The VMX exit reason of a TD exit, without its bus-lock flag.
    pub const fn exit_reason(&self) -> u32 {
        self.rax.details() & !(Self::BUS_LOCK as u32)
    }
    /// Whether the guest took a bus lock since the last exit.
    pub const fn bus_lock(&self) -> bool {
        self.rax.0 & Self::BUS_LOCK != 0
    }
    /// The VM that exited: 0 the TD itself, 1 to 3 its L2 VM.
    pub const fn vm(&self) -> u8 {
        (self.rcx >> 32 & 3) as u8
    }
}

impl<'a> Exit<'a> {
    /// The exit that `words` tell of; the files hold what TDH.VP.ENTER stored.
    pub fn new(words: ExitWords, gprs: &'a mut GprFile, xmms: Option<&'a mut XmmFile>) -> Exit<'a> {
        match words.kind() {
            ExitKind::NotEntered => Exit::NotEntered(words.rax),
            ExitKind::Asynchronous => Exit::Opaque(words),
            ExitKind::Tdvmcall => {
                let mask = TdvmcallMask::of_exit(words.rcx);
                Exit::Tdvmcall(Tdvmcall {
                    gprs: Window::both(gprs, mask.gprs()),
                    xmms: xmms.map(|file| Window::both(file, mask.xmms())),
                    mask,
                    vm: words.vm(),
                })
            }
        }
    }

    /// The stop of a DEBUG TD, whose registers the caller read into `all`.
    pub fn debug(words: ExitWords, all: &'a mut GprFile) -> Exit<'a> {
        Exit::Debug(words, Window::all(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86_arch::Gpr;

    fn words(rax: u64, rcx: u64) -> ExitWords {
        ExitWords {
            rax: Status(rax),
            rcx,
            ..Default::default()
        }
    }

    #[test]
    fn a_tdvmcall_lends_exactly_the_registers_of_its_mask() {
        for mask in 0..=0xFFFFu64 {
            let mut file = GprFile(core::array::from_fn(|n| n as u64 + 100));
            let Exit::Tdvmcall(mut call) = Exit::new(words(77, mask), &mut file, None) else {
                panic!("a TDVMCALL");
            };
            for reg in Gpr::ALL {
                let shown = mask >> reg.index() & 1 != 0 && !TdvmcallMask::NEVER.contains(reg);
                assert_eq!(call.gprs.get(reg).is_ok(), shown, "{mask:#x} {reg}");
                assert_eq!(call.gprs.set(reg, 1).is_ok(), shown, "{mask:#x} {reg}");
            }
        }
    }

    #[test]
    fn an_asynchronous_exit_lends_no_register() {
        let mut file = GprFile::default();
        let exit = Exit::new(words(48, 0x3_0000_0002), &mut file, None);
        let Exit::Opaque(words) = exit else {
            panic!("an asynchronous exit")
        };
        assert_eq!(
            (words.exit_reason(), words.vm(), words.bus_lock()),
            (48, 3, false)
        );
    }

    #[test]
    fn a_debug_td_lends_all_and_tells_what_was_written() {
        let mut file = GprFile([5; 16]);
        let Exit::Debug(_, mut all) = Exit::debug(words(0, 0), &mut file) else {
            panic!("a debug exit")
        };
        for reg in Gpr::ALL {
            assert_eq!(all.get(reg), Ok(5));
        }
        all.set(Gpr::Rsp, 6).unwrap();
        assert_eq!(all.written(), crate::GprSet::of(&[Gpr::Rsp]));
    }

    #[test]
    fn kinds_follow_the_decode_rule() {
        for (rax, kind) in [
            (77, ExitKind::Tdvmcall),
            (0x0400_004D, ExitKind::Tdvmcall),
            (1, ExitKind::Asynchronous),
            (0x0400_004A, ExitKind::Asynchronous),
            (0x4000_0001_0000_0002, ExitKind::Asynchronous),
            (0x6000_0005_0000_0000, ExitKind::Asynchronous),
            (0x9000_0205_0000_0000, ExitKind::Asynchronous),
            (0x8000_0200_0000_0092, ExitKind::NotEntered),
            (0xE000_0604_0000_0000, ExitKind::NotEntered),
            (0x8000_FF00_0000_0006, ExitKind::NotEntered),
            (0xC000_0100_0000_0001, ExitKind::NotEntered),
        ] {
            assert_eq!(ExitWords::kind_of(Status(rax)), kind, "{rax:#x}");
        }
    }
}
