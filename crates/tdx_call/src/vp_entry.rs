//! What a TD entry works on: the VMM's own registers, and what the last exit left to do.

use coco_regs::tdx::TdvmcallMask;
use coco_regs::{Exit, ExitKind, ExitWords, GprFile, XmmFile};
use tdx_abi::Status;

use crate::{LastExit, TdvprAndFlags};

/// One vCPU's side of TDH.VP.ENTER: made once, used for every entry.
///
/// Only the registers of a TDVMCALL's mask are ever written into the files; a failed entry writes nothing there, and the
/// answer of a TDVMCALL is delivered again on each attempt until one enters the TD.
///
/// ```no_run
/// # use tdx_call::{SeamcallLp, VpEntry, Tdvpr, NoSeam};
/// # use coco_regs::{Exit, GprFile, tdx::Request};
/// # fn run(lp: &mut impl SeamcallLp, tdvpr: Tdvpr, regs: &mut GprFile) -> Result<(), NoSeam> {
/// let mut entry = VpEntry::new(tdvpr, regs, None);
/// loop {
///     lp.vp_enter(&mut entry)?;
///     match entry.exit() {
///         Exit::Tdvmcall(call) => match Request::of(&call) {
///             Ok(request) => println!("{request:?}"),
///             Err(hidden) => println!("{hidden}"),
///         },
///         Exit::Opaque(words) => println!("exit reason {}", words.exit_reason()),
///         Exit::Debug(..) => {}
///         Exit::NotEntered(status) => println!("{status}"),
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
#[repr(C)]
pub struct VpEntry<'a> {
    gprs: &'a mut GprFile,
    xmms: Option<&'a mut XmmFile>,
    tdvpr: TdvprAndFlags,
    /// RCX of a TDVMCALL that waits for its answer; 0 if none waits, or if its mask selects nothing.
    owed: u64,
    words: ExitWords,
}

// The machine code knows these offsets.
const _: () = {
    assert!(core::mem::offset_of!(VpEntry<'static>, gprs) == 0);
    assert!(core::mem::offset_of!(VpEntry<'static>, xmms) == 8);
    assert!(core::mem::offset_of!(VpEntry<'static>, tdvpr) == 16);
    assert!(core::mem::offset_of!(VpEntry<'static>, owed) == 24);
    assert!(core::mem::offset_of!(VpEntry<'static>, words) == 32);
    assert!(core::mem::offset_of!(ExitWords, r9) == 32);
};

impl<'a> VpEntry<'a> {
    /// For a vCPU that did not exit by a TDVMCALL. Without an XMM file the guest's XMM registers are dropped, and it
    /// finds zeros in those it selected.
    pub fn new(
        tdvpr: impl Into<TdvprAndFlags>,
        gprs: &'a mut GprFile,
        xmms: Option<&'a mut XmmFile>,
    ) -> VpEntry<'a> {
        VpEntry {
            gprs,
            xmms,
            tdvpr: tdvpr.into(),
            owed: 0,
            words: ExitWords::default(),
        }
    }

    /// The same for a vCPU whose last exit an earlier `VpEntry` saw.
    #[must_use]
    pub fn after(mut self, last: LastExit) -> VpEntry<'a> {
        self.owed = match last {
            LastExit::Asynchronous => 0,
            LastExit::Tdvmcall { mask } => mask.into(),
        };
        self
    }

    /// RCX of the call.
    pub fn tdvpr(&self) -> TdvprAndFlags {
        self.tdvpr
    }
    /// Sets RCX of the call, for instance with a flag for one entry.
    pub fn set_tdvpr(&mut self, tdvpr: impl Into<TdvprAndFlags>) {
        self.tdvpr = tdvpr.into();
    }

    /// What the next entry must load.
    pub fn last(&self) -> LastExit {
        match self.owed {
            0 => LastExit::Asynchronous,
            rcx => LastExit::Tdvmcall { mask: rcx as u32 },
        }
    }
    /// The mask of the TDVMCALL whose answer the next entry delivers; empty otherwise.
    pub fn owed(&self) -> TdvmcallMask {
        TdvmcallMask::of_exit(self.owed)
    }

    /// RAX and the words of the last attempt. Only RAX means something when the TD was not entered.
    #[inline]
    pub fn words(&self) -> ExitWords {
        match self.words.kind() {
            ExitKind::Asynchronous => self.words,
            ExitKind::Tdvmcall => ExitWords {
                rax: self.words.rax,
                rcx: self.owed,
                ..ExitWords::default()
            },
            ExitKind::NotEntered => ExitWords {
                rax: self.words.rax,
                ..ExitWords::default()
            },
        }
    }

    /// The last exit, with the registers that it lends.
    #[inline]
    pub fn exit(&mut self) -> Exit<'_> {
        Exit::new(self.words(), self.gprs, self.xmms.as_deref_mut())
    }

    /// All registers, for a backend or a debugger; what the guest will take of them is [`VpEntry::owed`].
    pub fn files(&mut self) -> (&mut GprFile, Option<&mut XmmFile>) {
        (self.gprs, self.xmms.as_deref_mut())
    }

    /// Notes an exit that a backend in software produced: the words, while the backend wrote the registers of a
    /// TDVMCALL's mask into the files itself.
    pub fn exited(&mut self, words: ExitWords) -> Status {
        self.words = words;
        match words.kind() {
            ExitKind::Tdvmcall => self.owed = words.rcx,
            ExitKind::Asynchronous => self.owed = 0,
            ExitKind::NotEntered => {}
        }
        words.rax
    }

    /// Sorts RAX of the machine code, which settled everything but statuses with bits in their upper half.
    #[cfg(all(target_arch = "x86_64", not(any(windows, target_vendor = "apple"))))]
    #[inline]
    pub(crate) fn settle(&mut self, rax: u64) -> Result<Status, crate::NoSeam> {
        if rax >> 32 == 0 {
            return Ok(Status(rax));
        }
        self.settle_rare(rax)
    }

    #[cfg(all(target_arch = "x86_64", not(any(windows, target_vendor = "apple"))))]
    #[cold]
    fn settle_rare(&mut self, rax: u64) -> Result<Status, crate::NoSeam> {
        let status = crate::NoSeam::sort(rax).inspect_err(|why| self.words.rax = why.status())?;
        if ExitWords::kind_of(status) == ExitKind::Asynchronous {
            self.owed = 0;
        }
        Ok(status)
    }
}
