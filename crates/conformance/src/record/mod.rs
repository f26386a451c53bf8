//! Recording: the calls and guest acts of a platform, written down so that a replay must come to the same answers.
//!
//! A [`Recorder`] is attached to a platform as its observer. Each SEAMCALL is written when it is over, in one line with
//! everything its guest did meanwhile, so that no more than that is held in memory. What the module reads of memory is
//! written right before the call (or the guest's exit) that made it read; the rest of memory is left out.
//!
//! Beyond FORMAT.md a recording has: the key `state` in the act `set` (see [`crate::state`]), and the keys
//! `xsave_size_follows_xcr0` and `memory_end` of the platform.

mod call;
mod json;
mod platform;

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use coco_regs::{GprFile, XmmFile};
use tdx_abi::{HostLeaf, LeafWord};
use tdx_module::PendingEvents;
use tdx_platform::{Observer, PlatformConfig};
use x86_arch::vmx::Vcpu;
use x86_arch::{Gpr, KeyedHpa};

use self::call::Call;

/// Why a recording is not whole.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(
        "two processors called the module at once, which a recording of lines one after the other cannot hold"
    )]
    AtOnce,
}

/// What a recording came to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Recorded {
    /// Header included.
    pub lines: u64,
    pub bytes: u64,
}

/// Writes a trace.
pub struct Recorder {
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    recorded: Recorded,
    failure: Option<RecordError>,
    /// The call in progress.
    call: Option<Call>,
    /// What a replay's XMM registers hold, by processor.
    xmms: HashMap<u32, [u128; 16]>,
    /// What a replay's processors have pending.
    pending: HashMap<u32, u8>,
    /// The first TD takes its time from the clock as it was.
    clock_set: bool,
    first_private_key: u16,
}

impl Recorder {
    /// Begins a trace with its header.
    pub fn start(
        out: Box<dyn Write + Send>,
        config: &PlatformConfig,
        about: &str,
    ) -> io::Result<Recorder> {
        let mut state = State {
            out,
            recorded: Recorded::default(),
            failure: None,
            call: None,
            xmms: HashMap::new(),
            pending: HashMap::new(),
            clock_set: false,
            first_private_key: config.machine.private_key_ids.0,
        };
        state.write(&platform::header(config, about))?;
        Ok(Recorder {
            state: Mutex::new(state),
        })
    }

    /// Writes out what is left; an error that came up on the way is told here.
    pub fn finish(&self) -> Result<Recorded, RecordError> {
        let mut state = self.state();
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        state.out.flush()?;
        Ok(state.recorded)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, line: &str) -> io::Result<()> {
        self.recorded.lines += 1;
        self.recorded.bytes += line.len() as u64 + 1;
        self.out.write_all(line.as_bytes())?;
        self.out.write_all(b"\n")
    }

    /// After a failure nothing more is written.
    fn line(&mut self, line: &str) {
        if self.failure.is_none()
            && let Err(why) = self.write(line)
        {
            self.failure = Some(why.into());
        }
    }

    /// The call in progress on `lp`.
    fn call(&mut self, lp: u32) -> Option<&mut Call> {
        self.call.as_mut().filter(|call| call.lp == lp)
    }
}

impl Observer for Recorder {
    fn called(&self, lp: u32, gprs: &GprFile, xmms: &XmmFile, tsc: u64) {
        let mut state = self.state();
        if state.call.is_some() {
            state.failure.get_or_insert(RecordError::AtOnce);
        }
        let leaf = HostLeaf(LeafWord(gprs[Gpr::Rax]).number());
        if leaf == HostLeaf::MNG_INIT && !state.clock_set {
            state.clock_set = true;
            state.line(&format!(r#"{{"op":"set_tsc","value":"{tsc:#x}"}}"#));
        }
        let known = state.xmms.get(&lp).copied().unwrap_or_default();
        let pending = state.pending.get(&lp).copied().unwrap_or_default();
        state.call = Some(Call::new(lp, leaf, gprs, xmms, known, pending));
    }

    fn returned(&self, lp: u32, registers: Option<(&GprFile, &XmmFile)>) {
        let mut state = self.state();
        let Some(call) = state.call.take() else {
            return;
        };
        if let Some((_, xmms)) = registers {
            state.xmms.insert(lp, xmms.0);
        }
        state.pending.insert(lp, call.pending());
        for line in call.finish(registers) {
            state.line(&line);
        }
    }

    fn module_read(&self, from: KeyedHpa, bytes: &[u8]) {
        let mut state = self.state();
        let private = from.hkid.0 >= state.first_private_key;
        // One call at a time, so it is the call in progress that reads.
        if let Some(call) = &mut state.call {
            call.read(from.hpa, private, bytes);
        }
    }

    fn pending_events(&self, lp: u32, events: PendingEvents) {
        if let Some(call) = self.state().call(lp) {
            call.asked_for_events(events);
        }
    }

    fn entering(&self, lp: u32, vcpu: &Vcpu) {
        if let Some(call) = self.state().call(lp) {
            call.entering(vcpu);
        }
    }

    fn exited(&self, lp: u32, vcpu: &Vcpu) {
        if let Some(call) = self.state().call(lp) {
            call.exited(vcpu);
        }
    }
}
