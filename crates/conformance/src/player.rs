//! Plays the operations of a trace on a module and compares what comes of them.

use std::collections::HashMap;
use std::io::BufRead;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use coco_regs::{GprFile, XmmFile};
use tdx_abi::Status;
use tdx_module::{LpId, Module, Profile};
use x86_arch::Gpr;
use x86_arch::vmx::Vcpu;

use crate::hardware::{Changes, Hardware};
use crate::header::Header;
use crate::machine::ReplayMachine;
use crate::op::{Op, Seamcall};
use crate::reader::{ReadError, TraceReader};
use crate::report::{Book, Counts, Mismatch, Place};
use crate::session::Session;

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A defect of the module, with the line where it showed.
    #[error("line {line}: the module panicked: {message}")]
    Panicked { line: u64, message: String },
}

/// A trace being replayed.
pub struct Replay<R> {
    trace: TraceReader<R>,
    header: Arc<Header>,
    profile: &'static Profile,
    book: Arc<Mutex<Book>>,
    world: Arc<World>,
    /// Kept alive here; the world's guests only refer to it.
    module: Arc<Module<ReplayMachine>>,
}

impl<R: BufRead> Replay<R> {
    /// Reads the header and switches the machine on, with the module that the trace names.
    pub fn new(input: R) -> Result<Replay<R>, ReadError> {
        Replay::with_profile(input, None)
    }

    /// The same with another module.
    pub fn with_profile(
        input: R,
        profile: Option<&'static Profile>,
    ) -> Result<Replay<R>, ReadError> {
        let trace = TraceReader::new(input)?;
        let header = Arc::new(trace.header().clone());
        let profile = profile.unwrap_or_else(|| named_profile(&header.module));
        let book = Arc::new(Mutex::new(Book::default()));
        let (world, module) = World::new(&header, profile, &book, &Changes::default());
        Ok(Replay {
            trace,
            header,
            profile,
            book,
            world,
            module,
        })
    }

    /// Plays the next line and gives its mismatches; `None` at the end of the trace.
    pub fn step(&mut self) -> Result<Option<Vec<Mismatch>>, ReplayError> {
        let Some((line, op)) = self.trace.next_op()? else {
            return Ok(None);
        };
        if let Op::Reset {
            msr, cpuid, cmrs, ..
        } = &op
        {
            let (msr, cpuid, cmrs) = (msr.as_ref(), cpuid.as_deref(), cmrs.as_deref());
            let changes = Changes { msr, cpuid, cmrs };
            lock(&self.book).vmm_xmm.clear();
            (self.world, self.module) =
                World::new(&self.header, self.profile, &self.book, &changes);
            return Ok(Some(Vec::new()));
        }
        let at = Place {
            line,
            leaf: String::new(),
        };
        let played = catch_unwind(AssertUnwindSafe(|| self.world.play(&at, &op)));
        if let Err(panic) = played {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or(panic.downcast_ref::<String>().map(String::as_str));
            let message = text.unwrap_or("no message").to_owned();
            return Err(ReplayError::Panicked { line, message });
        }
        let mut book = lock(&self.book);
        match book.not_understood.take() {
            Some((line, what)) => Err(ReadError::NotUnderstood { line, what }.into()),
            None => Ok(Some(std::mem::take(&mut book.mismatches))),
        }
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        let lines = self.trace.line();
        Counts {
            lines,
            ..lock(&self.book).counts
        }
    }
}

/// The profile of the module that a header names, which says for example "Intel TDX module 1.5.01 (…)"; of one that
/// no profile knows, the newest.
fn named_profile(module: &str) -> &'static Profile {
    let mut words = module.split(|c: char| c.is_whitespace() || c == '(' || c == ',');
    let named = words.find_map(Profile::by_name);
    named.unwrap_or(Profile::ALL[Profile::ALL.len() - 1])
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Machine, module and book between two resets.
pub(crate) struct World {
    pub(crate) hardware: Hardware,
    header: Arc<Header>,
    book: Arc<Mutex<Book>>,
    /// The calls in progress, by processor; a running session is taken out.
    sessions: Mutex<HashMap<u32, Session>>,
    module: OnceLock<Weak<Module<ReplayMachine>>>,
}

impl World {
    fn new(
        header: &Arc<Header>,
        profile: &Profile,
        book: &Arc<Mutex<Book>>,
        changes: &Changes<'_>,
    ) -> (Arc<World>, Arc<Module<ReplayMachine>>) {
        let world = Arc::new(World {
            hardware: Hardware::new(&header.platform, changes),
            header: header.clone(),
            book: book.clone(),
            sessions: Mutex::default(),
            module: OnceLock::new(),
        });
        let module = Arc::new(Module::new(ReplayMachine(world.clone()), profile.clone()));
        world.module.get_or_init(|| Arc::downgrade(&module));
        (world, module)
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    /// Plays one operation, a reset apart.
    pub(crate) fn play(&self, at: &Place, op: &Op) {
        let hardware = &self.hardware;
        match op {
            Op::Write { pa, hex, .. } => hardware.write(pa.0, &hex.0),
            Op::Fill { pa, size, byte } => hardware.fill(pa.0, size.0, *byte),
            Op::Read {
                pa,
                hex,
                label,
                ignore,
            } => {
                let mut got = vec![0; hex.0.len()];
                hardware.read(pa.0, &mut got);
                let at = at.within(&format!("read {:#x}", pa.0));
                self.book()
                    .compare_bytes(&at, label.as_deref(), &hex.0, got, ignore);
            }
            Op::Note { .. } => {}
            Op::Reset { .. } => unreachable!("played by Replay, refused in a guest's list"),
            Op::SetMsr { lp, msr, value } => hardware.write_msr(*lp, msr.0 as u32, value.0),
            Op::SetTsc { value } => hardware.set_tsc(value.0),
            Op::EntropyFail { count } => hardware.fail_entropy(*count),
            Op::PconfigResult { code } => hardware.set_pconfig_result(*code),
            Op::IntrPending { lp, bits } => hardware.set_pending(*lp, *bits),
            Op::Seamcall(call) => {
                let at = at.within(&call.leaf);
                for _ in 0..call.repeat {
                    self.call(&at, call);
                }
            }
        }
    }

    fn call(&self, at: &Place, call: &Arc<Seamcall>) {
        let mut input = GprFile::default();
        let mut xmms = XmmFile::default();
        {
            let mut book = self.book();
            book.counts.seamcalls += 1;
            for (reg, value) in self.header.gpr_default.iter().chain(call.input.iter()) {
                input[reg] = value;
            }
            for (reg, name) in &call.from.0 {
                input[reg.0] = book.captured(at, name);
            }
            if let Some(values) = &call.xmm_in {
                book.vmm_xmm.insert(call.lp, values.map(|v| v.0));
            }
            xmms.0 = book.vmm_xmm.get(&call.lp).copied().unwrap_or_default();
        }
        lock(&self.sessions).insert(call.lp, Session::new(call.clone(), at.clone()));

        let mut output = input;
        let stopped = self.seamcall(LpId(call.lp), &mut output, &mut xmms);

        let session = lock(&self.sessions).remove(&call.lp);
        let mut book = self.book();
        book.vmm_xmm.insert(call.lp, xmms.0);
        if stopped.is_some() != call.module_shutdown {
            let expected = match call.module_shutdown {
                true => "the module stops",
                false => "the call returns",
            };
            let got = match stopped {
                Some(why) => format!("the module stops: {why}"),
                None => "the call returns".into(),
            };
            let expected = expected.to_owned();
            book.mismatch(at, "course", expected, got);
        }
        if let Some(session) = session {
            session.finish(&mut book);
        }
        if stopped.is_none() {
            compare_output(&mut book, at, call, &input, &output, &xmms);
        }
    }

    /// Makes the call on the module; why, when the module stopped for good.
    fn seamcall(&self, lp: LpId, gprs: &mut GprFile, xmms: &mut XmmFile) -> Option<&'static str> {
        let module = self.module.get().and_then(Weak::upgrade);
        let module = module.expect("the module lives as long as its world is played");
        module.seamcall(lp, gprs, xmms).err().map(|broken| broken.0)
    }

    /// VM entry until the next VM exit of the guest whose TDH.VP.ENTER is in progress on `lp`.
    pub(crate) fn run(&self, lp: LpId, vcpu: &mut Vcpu) {
        let session = lock(&self.sessions).remove(&lp.0);
        let mut session = session.expect("a call is in progress on this processor");
        session.run(self, lp, vcpu);
        lock(&self.sessions).insert(lp.0, session);
    }
}

fn compare_output(
    book: &mut Book,
    at: &Place,
    call: &Seamcall,
    input: &GprFile,
    output: &GprFile,
    xmms: &XmmFile,
) {
    let Some(expected) = &call.output else { return };
    for reg in Gpr::ALL.into_iter().filter(|&reg| reg != Gpr::Rsp) {
        if let Some(name) = call.capture.0.get(&crate::registers::TraceGpr(reg)) {
            book.captured.insert(name.clone(), output[reg]);
        }
        if call.volatile.iter().any(|v| v.0 == reg) {
            book.counts.volatile += 1;
            continue;
        }
        let expected = expected.get(reg).unwrap_or(input[reg]);
        book.compare(at, reg.name(), expected.into(), output[reg].into());
    }
    book.compare_status(at, call.status.as_deref(), expected.get(Gpr::Rax));
    if let Some(expected) = &call.xmm_out {
        for (i, &got) in xmms.0.iter().enumerate() {
            book.compare(at, &format!("XMM{i}"), expected.get(i), got);
        }
    }
}

impl Book {
    /// The recorded name of a status against this project's name for the recorded value.
    pub(crate) fn compare_status(&mut self, at: &Place, name: Option<&str>, rax: Option<u64>) {
        let (Some(name), Some(rax)) = (name, rax) else {
            return;
        };
        let ours = Status(rax)
            .name()
            .map(|n| format!("TDX_{n}"))
            .unwrap_or_default();
        if ours != name {
            self.mismatch(
                at,
                "status",
                name.to_owned(),
                format!("{ours:?} as the name of {rax:#x}"),
            );
        }
    }
}

impl Place {
    fn within(&self, leaf: &str) -> Place {
        let leaf = match self.leaf.as_str() {
            "" => leaf.to_owned(),
            outer => format!("{outer}: {leaf}"),
        };
        Place {
            line: self.line,
            leaf,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_replayed_on_the_module_that_it_names() {
        let name = |module| named_profile(module).name;
        assert_eq!(
            name("Intel TDX module 1.5.01 (source release), run in user space"),
            "1.5.01"
        );
        assert_eq!(name("1.5.01"), "1.5.01");
        assert_eq!(
            name("a module of 2030"),
            Profile::ALL[Profile::ALL.len() - 1].name
        );
    }
}
