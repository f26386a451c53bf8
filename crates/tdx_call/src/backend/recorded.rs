//! Calls as values: recorded by [`Traced`], answered again by [`Replay`].

use core::fmt;

use coco_regs::tdx::TdvmcallMask;
use coco_regs::{ExitKind, ExitWords, GprFile, XmmFile};
use tdx_abi::{HostLeaf, LeafWord, Status};

use crate::{NoSeam, SeamcallLp, TdvprAndFlags, TdxModuleArgs, Traffic, VpEntry};

/// One call, with everything that crossed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "without allocation there is nothing to box with"
)]
pub enum Recorded {
    Seamcall {
        leaf: LeafWord,
        traffic: Traffic,
        input: TdxModuleArgs,
        output: TdxModuleArgs,
        result: Result<Status, NoSeam>,
    },
    VpEnter {
        tdvpr: TdvprAndFlags,
        /// The mask of the TDVMCALL that was answered, and its registers; the others are 0.
        owed: TdvmcallMask,
        loaded: GprFile,
        loaded_xmms: XmmFile,
        words: ExitWords,
        /// The registers of the mask in `words`, after a TDVMCALL; the others are 0.
        stored: GprFile,
        stored_xmms: XmmFile,
        result: Result<Status, NoSeam>,
    },
}

/// Gives every call to a sink, after it.
#[derive(Clone, Debug)]
pub struct Traced<L, S> {
    inner: L,
    sink: S,
}

impl<L, S: FnMut(&Recorded)> Traced<L, S> {
    pub const fn new(inner: L, sink: S) -> Self {
        Traced { inner, sink }
    }
    pub fn into_inner(self) -> L {
        self.inner
    }
}

impl<L: SeamcallLp, S: FnMut(&Recorded)> SeamcallLp for Traced<L, S> {
    fn seamcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        let input = *args;
        let result = self.inner.seamcall(leaf, args, traffic);
        (self.sink)(&Recorded::Seamcall {
            leaf,
            traffic,
            input,
            output: *args,
            result,
        });
        result
    }

    fn vp_enter(&mut self, entry: &mut VpEntry<'_>) -> Result<Status, NoSeam> {
        let tdvpr = entry.tdvpr();
        let owed = entry.owed();
        let (loaded, loaded_xmms) = selected(entry, owed);
        let result = self.inner.vp_enter(entry);
        let words = entry.words();
        let (stored, stored_xmms) = selected(entry, mask(&words));
        (self.sink)(&Recorded::VpEnter {
            tdvpr,
            owed,
            loaded,
            loaded_xmms,
            words,
            stored,
            stored_xmms,
            result,
        });
        result
    }
}

/// Answers calls from a recording, and notes the first call that is not the recorded one. From there on, and after the
/// end, every call reaches no module.
#[derive(Clone, Debug)]
pub struct Replay<I> {
    rest: I,
    /// Calls answered so far.
    calls: usize,
    mismatch: Option<Mismatch>,
}

/// The first call that a [`Replay`] could not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// Its number, from 0.
    pub call: usize,
    pub leaf: HostLeaf,
    /// What the recording has there; `None` after its end.
    pub recorded: Option<HostLeaf>,
}

impl<I: Iterator<Item = Recorded>> Replay<I> {
    pub const fn new(recording: I) -> Self {
        Replay {
            rest: recording,
            calls: 0,
            mismatch: None,
        }
    }

    /// Whether every call so far was the recorded one.
    pub const fn result(&self) -> Result<(), Mismatch> {
        match self.mismatch {
            None => Ok(()),
            Some(mismatch) => Err(mismatch),
        }
    }
    /// What was not called.
    pub fn into_rest(self) -> I {
        self.rest
    }

    fn next(&mut self) -> Option<Recorded> {
        match self.mismatch {
            None => self.rest.next(),
            Some(_) => None,
        }
    }
    fn answered<T>(&mut self, answer: T) -> T {
        self.calls += 1;
        answer
    }
    fn differs(&mut self, leaf: HostLeaf, recorded: Option<Recorded>) -> Result<Status, NoSeam> {
        self.mismatch.get_or_insert(Mismatch {
            call: self.calls,
            leaf,
            recorded: recorded.map(|r| r.leaf()),
        });
        Err(NoSeam::VmFailInvalid)
    }
}

impl<I: Iterator<Item = Recorded>> SeamcallLp for Replay<I> {
    fn seamcall(
        &mut self,
        called: LeafWord,
        args: &mut TdxModuleArgs,
        way: Traffic,
    ) -> Result<Status, NoSeam> {
        match self.next() {
            Some(Recorded::Seamcall {
                leaf,
                traffic,
                input,
                output,
                result,
            }) if (leaf, traffic, input) == (called, way, *args) => {
                *args = output;
                self.answered(result)
            }
            other => self.differs(HostLeaf(called.number()), other),
        }
    }

    fn vp_enter(&mut self, entry: &mut VpEntry<'_>) -> Result<Status, NoSeam> {
        let now = entry.owed();
        let (gprs, vectors) = selected(entry, now);
        match self.next() {
            Some(Recorded::VpEnter {
                tdvpr,
                owed,
                loaded,
                loaded_xmms,
                words,
                stored,
                stored_xmms,
                result,
            }) if tdvpr == entry.tdvpr() && (owed, loaded, loaded_xmms) == (now, gprs, vectors) => {
                entry.exited(words);
                let mask = mask(&words);
                let (file, vectors) = entry.files();
                for reg in mask.gprs().iter() {
                    file[reg] = stored[reg];
                }
                if let Some(vectors) = vectors {
                    for xmm in mask.xmms().iter() {
                        vectors.0[xmm.index()] = stored_xmms.0[xmm.index()];
                    }
                }
                self.answered(result)
            }
            other => self.differs(HostLeaf::VP_ENTER, other),
        }
    }
}

impl Recorded {
    pub const fn leaf(&self) -> HostLeaf {
        match self {
            Recorded::Seamcall { leaf, .. } => HostLeaf(leaf.number()),
            Recorded::VpEnter { .. } => HostLeaf::VP_ENTER,
        }
    }
    pub const fn result(&self) -> Result<Status, NoSeam> {
        match *self {
            Recorded::Seamcall { result, .. } | Recorded::VpEnter { result, .. } => result,
        }
    }
}

/// One line: the leaf, what went in, the status and what came out.
impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn outcome(f: &mut fmt::Formatter<'_>, result: Result<Status, NoSeam>) -> fmt::Result {
            match result {
                Ok(status) => write!(f, " -> {status}"),
                Err(why) => write!(f, " -> {why}"),
            }
        }
        match self {
            Recorded::Seamcall {
                leaf,
                input,
                output,
                result,
                ..
            } => {
                write!(f, "{}", HostLeaf(leaf.number()))?;
                if leaf.version() != 0 {
                    write!(f, " v{}", leaf.version())?;
                }
                let (before, after) = (input.to_array(), output.to_array());
                for (reg, value) in TdxModuleArgs::REGS.into_iter().zip(before) {
                    if value != 0 {
                        write!(f, " {reg} {value:#x}")?;
                    }
                }
                outcome(f, *result)?;
                for (n, reg) in TdxModuleArgs::REGS.into_iter().enumerate() {
                    if before[n] != after[n] {
                        write!(f, " {reg} {:#x}", after[n])?;
                    }
                }
                Ok(())
            }
            Recorded::VpEnter {
                tdvpr,
                owed,
                loaded,
                words,
                stored,
                result,
                ..
            } => {
                write!(f, "TDH.VP.ENTER RCX {:#x}", tdvpr.0)?;
                for reg in owed.gprs().iter() {
                    write!(f, " {reg} {:#x}", loaded[reg])?;
                }
                match (result, words.kind()) {
                    (Err(_), _) | (_, ExitKind::NotEntered) => outcome(f, *result),
                    (_, ExitKind::Asynchronous) => write!(
                        f,
                        " -> exit {} RCX {:#x} RDX {:#x} R8 {:#x} R9 {:#x}",
                        words.exit_reason(),
                        words.rcx,
                        words.rdx,
                        words.r8,
                        words.r9
                    ),
                    (_, ExitKind::Tdvmcall) => {
                        write!(f, " -> TDVMCALL RCX {:#x}", words.rcx)?;
                        for reg in mask(words).gprs().iter() {
                            write!(f, " {reg} {:#x}", stored[reg])?;
                        }
                        Ok(())
                    }
                }
            }
        }
    }
}

fn mask(words: &ExitWords) -> TdvmcallMask {
    match words.kind() {
        ExitKind::Tdvmcall => TdvmcallMask::of_exit(words.rcx),
        _ => TdvmcallMask::default(),
    }
}

/// The registers of a mask, the others 0: what crosses, and nothing of the VMM's own.
fn selected(entry: &mut VpEntry<'_>, mask: TdvmcallMask) -> (GprFile, XmmFile) {
    let (file, vectors) = entry.files();
    let mut gprs = GprFile::default();
    for reg in mask.gprs().iter() {
        gprs[reg] = file[reg];
    }
    let mut xmms = XmmFile::default();
    if let Some(vectors) = vectors {
        for xmm in mask.xmms().iter() {
            xmms.0[xmm.index()] = vectors.0[xmm.index()];
        }
    }
    (gprs, xmms)
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.recorded {
            Some(recorded) if recorded == self.leaf => {
                write!(f, "call {}: {} with other operands", self.call, self.leaf)
            }
            Some(recorded) => write!(
                f,
                "call {}: {}, recorded is {recorded}",
                self.call, self.leaf
            ),
            None => write!(
                f,
                "call {}: {}, after the recording's end",
                self.call, self.leaf
            ),
        }
    }
}

impl core::error::Error for Mismatch {}
