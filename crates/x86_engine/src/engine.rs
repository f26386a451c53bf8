//! The run loop: blocks of ops, and what is looked at between instructions.

use crate::code::{self, CodeCache};
use crate::cpu::{Cpu, REG_PAGE};
use crate::event::Event;
use crate::exit::control;
use crate::fault::Fault;
use crate::flags;
use crate::kind::EngineKind;
use crate::op::{self, BRANCH, SOLO, STORES};
use crate::paging::Actor;
use crate::platform::Platform;
use crate::statistics::Statistics;
use crate::tlb::{Cached, Decoded, Tlb};
use crate::translate::fast::Fast;
use crate::translate::{self, Translator, lockstep, watch};
use iced_x86::DecoderError;
use x86_arch::vmx::{Seg, Vcpu};
use x86_arch::{Access, ExitReason, RamPage, VmExit};

/// Instructions between two looks at the host's events.
const SLICE: u64 = 1 << 15;

/// Interruptibility-state bits.
pub(crate) const STI_SHADOW: u32 = 1;
pub(crate) const MOV_SS_SHADOW: u32 = 2;
pub(crate) const NMI_BLOCKED: u32 = 8;

/// Why a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// A VM exit: `vcpu.exit` says which.
    Exit,
    /// The budget of instructions is used up; the vCPU can go on where it is.
    Budget,
    /// The vCPU halted and nothing is pending (only when HLT does not exit).
    Halted,
    /// Lockstep: translated code did something else than the interpreter; [`Engine::difference`] says what.
    Difference,
}

/// The result of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ran {
    /// Instructions completed. An instruction that faulted or exited is not; a REP instruction counts once, and
    /// once more for each time it gave way between iterations.
    pub retired: u64,
    /// Virtual time used, which the budget is about: instructions, and the ticks that PAUSE waits.
    pub ticks: u64,
    pub stop: Stop,
}

/// What one processor keeps from run to run: translations and decoded code.
pub struct Engine<P: RamPage + 'static> {
    tlb: Tlb<P>,
    code: CodeCache<P>,
    kind: EngineKind,
    translator: Option<Box<Translator<P>>>,
    refused: Option<String>,
    /// Lockstep's verdict.
    difference: Option<String>,
}

impl<P: RamPage + 'static> Default for Engine<P> {
    fn default() -> Self {
        Engine::with(EngineKind::default())
    }
}

/// The code page that the last block came from, and for which circumstances.
struct Current {
    linear: u64,
    tag: u64,
    generation: u64,
    number: usize,
}

const NOWHERE: Current = Current {
    linear: u64::MAX,
    tag: 0,
    generation: 0,
    number: 0,
};

impl<P: RamPage + 'static> Engine<P> {
    /// The default engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// An engine of this kind; the interpreter where the host cannot have it ([`Engine::refused`] says why).
    pub fn with(kind: EngineKind) -> Self {
        let mut engine = Engine {
            tlb: Tlb::default(),
            code: CodeCache::default(),
            kind,
            translator: None,
            refused: None,
            difference: None,
        };
        if kind != EngineKind::Interpreter {
            match Translator::new(kind == EngineKind::Lockstep) {
                Ok(translator) => {
                    engine.translator = Some(Box::new(translator));
                    engine.tlb.fast = Some(Box::new(Fast::new()));
                }
                Err(why) => engine.refused = Some(why),
            }
        }
        engine
    }

    /// Executions of a block after which it is translated; 0 translates everything before it runs, for tests.
    pub fn translate_after(&mut self, executions: u16) {
        if let Some(translator) = &mut self.translator {
            translator.set_hot(executions);
        }
    }

    /// Translates as if the host's processor had not this feature (by its name in Rust), for tests. False when no
    /// translation depends on it.
    pub fn translate_without(&mut self, feature: &str) -> bool {
        match &mut self.translator {
            Some(translator) => translator.do_without(feature),
            None => false,
        }
    }

    /// The kind that was asked for.
    pub fn kind(&self) -> EngineKind {
        self.kind
    }

    /// Why the interpreter runs although another engine was asked for.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Instructions that translated code completed, without those that it called the interpreter for.
    pub fn translated(&self) -> u64 {
        self.translator.as_ref().map_or(0, |t| t.completed)
    }

    /// The first difference that lockstep found: state, code, expected and got.
    pub fn difference(&self) -> Option<&str> {
        self.difference.as_deref()
    }

    /// What translation came to so far; `None` where nothing is translated.
    pub fn statistics(&self) -> Option<Statistics> {
        let translator = self.translator.as_ref()?;
        let tables = self.code.bytes() + self.tlb.bytes();
        Some(translator.statistics(tables))
    }

    /// Drops cached translations of these VPIDs, second level included.
    pub fn invalidate(&mut self, vpids: &[u16]) {
        for &vpid in vpids {
            self.tlb.flush_vpid(vpid);
        }
    }

    /// Drops all cached translations: [`Platform::page`] may answer otherwise now. Decoded and translated code stays,
    /// since it depends on the bytes of pages alone, whose changes are counted.
    pub fn invalidate_all(&mut self) {
        self.tlb.flush_all();
    }

    /// The translations that the processor holds, with their VPIDs: for checks from outside.
    pub fn cached(&self) -> impl Iterator<Item = (u16, Cached<'_, P>)> {
        self.tlb.cached()
    }

    /// VM entry: runs until a VM exit or until `budget` ticks have passed (an instruction is one tick, PAUSE is more).
    pub fn run(
        &mut self,
        vcpu: &mut Vcpu,
        platform: &mut dyn Platform<Page = P>,
        budget: u64,
    ) -> Ran {
        let vpid = if vcpu.controls.secondary & control::VPID != 0 {
            vcpu.controls.vpid
        } else {
            0
        };
        self.tlb.enter_space(vpid, pcid(vcpu));
        let mut cpu = Cpu::new(vcpu, &mut self.tlb, platform);
        let stop = match cpu.enter() {
            Ok(()) => run_loop(
                &mut cpu,
                &mut self.code,
                &mut self.translator,
                (self.kind == EngineKind::Lockstep).then_some(&mut self.difference),
                budget,
            ),
            Err(_) => Stop::Exit,
        };
        cpu.store();
        Ran {
            retired: cpu.retired,
            ticks: cpu.time(),
            stop,
        }
    }
}

pub(crate) fn pcid(vcpu: &Vcpu) -> u16 {
    if vcpu.regs.cr4 & crate::cpu::bits::CR4_PCIDE != 0 {
        (vcpu.regs.cr3 & 0xFFF) as u16
    } else {
        0
    }
}

fn run_loop<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    cache: &mut CodeCache<P>,
    translator: &mut Option<Box<Translator<P>>>,
    mut lockstep: Option<&mut Option<String>>,
    budget: u64,
) -> Stop {
    let mut current = NOWHERE;
    let mut plan = translate::Next::Look;
    let mut slice_end = 0;
    // Until then everything is interpreted: translated blocks are too long for what is left of a slice.
    let mut rest_end = 0;
    loop {
        if cpu.time() >= slice_end {
            if cpu.host_events().is_err() {
                return Stop::Exit;
            }
            if cpu.time() >= budget {
                return Stop::Budget;
            }
            slice_end = budget.min(cpu.time() + SLICE);
        }
        if cpu.attention {
            // The mode may be another one.
            current = NOWHERE;
            cpu.attention = !cpu.is_quiet();
        }
        if cpu.attention {
            match cpu.between() {
                Ok(Next::Run) => {}
                Ok(Next::Step) => {
                    if cpu.step(cache).is_err() {
                        return Stop::Exit;
                    }
                    continue;
                }
                Ok(Next::Halted) => return Stop::Halted,
                Err(_) => return Stop::Exit,
            }
            if cpu.attention {
                continue;
            }
        }
        let linear = cpu.code_linear();
        if (linear ^ current.linear) & !0xFFF != 0
            || current.tag != cpu.tag
            || current.generation != cpu.tlb.generation
        {
            match cpu.find_code(cache, linear) {
                Ok(Some(number)) => {
                    current = Current {
                        linear,
                        tag: cpu.tag,
                        generation: cpu.tlb.generation,
                        number,
                    };
                }
                Ok(None) => {
                    current = NOWHERE;
                    if cpu.careful().is_err() {
                        return Stop::Exit;
                    }
                    continue;
                }
                Err(fault) => {
                    if cpu.raise(fault).is_err() {
                        return Stop::Exit;
                    }
                    continue;
                }
            }
        }
        let offset = (linear & 0xFFF) as usize;
        let page = cache.page(current.number);
        let Some(block) = page.block(offset) else {
            current = NOWHERE;
            if cpu.careful().is_err() {
                return Stop::Exit;
            }
            continue;
        };
        let mut left = slice_end - cpu.time();
        if let Some(translator) = translator {
            let planned = core::mem::replace(&mut plan, translate::Next::Look);
            match planned {
                translate::Next::Look if cpu.time() >= rest_end && cpu.can_translate() => {
                    if let Some(entry) = translator.entry(&mut cpu.tlb.fast, page, block, linear) {
                        if let Some(difference) = &mut lockstep {
                            let before = cpu.retired;
                            let count = left.min(u64::from(entry.count));
                            let rehearsed = lockstep::rehearse(cpu, page, count as usize);
                            plan = translator.run(cpu, entry.address, count);
                            let done = (cpu.retired - before) as usize;
                            **difference = rehearsed.compare(cpu, page, done);
                            if done == 0 && plan == translate::Next::Look {
                                // The rehearsal wrote to the block's own page.
                                plan = translate::Next::One;
                            }
                            if difference.is_some() {
                                return Stop::Difference;
                            }
                            continue;
                        }
                        plan = translator.run(cpu, entry.address, left);
                        if plan == translate::Next::Rest {
                            rest_end = slice_end;
                        }
                        if plan == translate::Next::Fault {
                            plan = translate::Next::Look;
                            if let Some(fault) = cpu.frame.fault.take()
                                && cpu.fault(fault).is_err()
                            {
                                return Stop::Exit;
                            }
                        }
                        continue;
                    }
                }
                translate::Next::One => left = 1,
                _ => {}
            }
        }
        if run_block(cpu, page, block, left).is_err() {
            return Stop::Exit;
        }
    }
}

/// Runs at most `left` ops of a block. An error is a VM exit.
#[inline(always)]
fn run_block<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    page: &code::CodePage<P>,
    block: code::Block,
    left: u64,
) -> Result<(), Fault> {
    let base = cpu.rip.wrapping_sub(cpu.code_linear() & 0xFFF);
    cpu.gpr[REG_PAGE as usize] = base;
    let first = block.first as usize;
    let count = (block.count as u64).min(left) as usize;
    let Some(ops) = page.ops.get(first..first + count) else {
        return Ok(());
    };
    let Some(last) = ops.last() else {
        return Ok(());
    };
    for (done, op) in ops.iter().enumerate() {
        match (op.run)(cpu, op) {
            Ok(()) => {
                if op.flags & STORES != 0 && page.ram.code_version() != page.version {
                    // It may have changed what follows.
                    cpu.retired += done as u64 + 1;
                    if op.flags & (BRANCH | SOLO) == 0 {
                        cpu.rip = base.wrapping_add(u64::from(op.next)) & cpu.mode.ip_mask();
                    } else {
                        cpu.rip = cpu.next_rip;
                    }
                    return Ok(());
                }
            }
            Err(fault) => {
                cpu.retired += done as u64;
                cpu.rip = base.wrapping_add(u64::from(op.start)) & cpu.mode.ip_mask();
                return cpu.fault(fault);
            }
        }
    }
    cpu.retired += count as u64;
    cpu.rip = if last.flags & (BRANCH | SOLO) != 0 {
        cpu.next_rip
    } else {
        base.wrapping_add(u64::from(last.next)) & cpu.mode.ip_mask()
    };
    Ok(())
}

/// What to do after looking around between two instructions.
pub(crate) enum Next {
    Run,
    /// One instruction, then look again.
    Step,
    Halted,
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// The linear address of RIP.
    #[inline(always)]
    pub(crate) fn code_linear(&self) -> u64 {
        if self.is_64() {
            self.rip
        } else {
            let base = self.vcpu.regs.segments[Seg::Cs as usize].base;
            self.rip.wrapping_add(base) & 0xFFFF_FFFF
        }
    }

    /// An instruction did not complete: deliver its exception, or leave with its exit.
    #[cold]
    fn fault(&mut self, fault: Fault) -> Result<(), Fault> {
        // A fault drops the data breakpoints that the instruction met before it.
        if !fault.is_exit() {
            self.debug_hits = 0;
        }
        let result = self.raise(fault);
        self.nmi_unblocked = false;
        result
    }

    /// The code page of a linear address; `None` when it cannot be cached.
    #[inline]
    fn find_code(&mut self, cache: &mut CodeCache<P>, linear: u64) -> Result<Option<usize>, Fault> {
        self.check_fetch()?;
        let (mode, epoch) = (self.mode, cache.epoch);
        if let Some(entry) = self.tlb.code(linear, self.tag) {
            if let Some(decoded) = entry.decoded
                && decoded.epoch == epoch
                && decoded.mode == mode
            {
                return Ok(Some(decoded.number));
            }
            if let Some(number) = cache.find(entry.page, mode) {
                entry.decoded = Some(Decoded {
                    number,
                    epoch,
                    mode,
                });
                return Ok(Some(number));
            }
        }
        self.length = 0;
        let translated = self.translate(linear, Access::Execute, Actor::Current)?;
        self.tlb
            .fill_code(linear, self.tag, translated.size, translated.page);
        let Some(ram) = translated.ram else {
            return Ok(None);
        };
        if let Some(number) = cache.find(translated.page, mode) {
            return Ok(Some(number));
        }
        watch::begin(&ram, self.tlb.fast.as_deref_mut());
        let number = cache.add(translated.page, mode, ram);
        if cache.epoch != epoch
            && let Some(fast) = &mut self.tlb.fast
        {
            // Translated code that reads the versions of pages that are gone is not entered any more.
            fast.renew_all();
        }
        Ok(Some(number))
    }

    fn check_fetch(&self) -> Result<(), Fault> {
        let outside = if self.is_64() {
            !self.is_canonical(self.rip)
        } else {
            self.rip > u64::from(self.segment(Seg::Cs).limit)
        };
        if outside { Err(Fault::GP0) } else { Ok(()) }
    }

    /// One instruction that crosses its page, or whose page cannot be cached. An error is a VM exit.
    fn careful(&mut self) -> Result<(), Fault> {
        match self.fetch_one() {
            Ok(op) => self.run_one(&op),
            Err(fault) => self.raise(fault),
        }
    }

    fn run_one(&mut self, op: &op::Op<P>) -> Result<(), Fault> {
        let base = self.rip.wrapping_sub(self.code_linear() & 0xFFF);
        self.gpr[REG_PAGE as usize] = base;
        match (op.run)(self, op) {
            Ok(()) => {
                self.retired += 1;
                self.rip = if op.flags & (BRANCH | SOLO) != 0 {
                    self.next_rip
                } else {
                    base.wrapping_add(u64::from(op.next)) & self.mode.ip_mask()
                };
                Ok(())
            }
            Err(fault) => {
                self.rip = base.wrapping_add(u64::from(op.start)) & self.mode.ip_mask();
                self.fault(fault)
            }
        }
    }

    fn fetch_one(&mut self) -> Result<op::Op<P>, Fault> {
        self.check_fetch()?;
        let linear = self.code_linear();
        let offset = (linear & 0xFFF) as usize;
        let mut bytes = [0; 15];
        let first = bytes.len().min(4096 - offset);
        self.fetch_bytes(linear, &mut bytes[..first])?;
        let (mut insn, error) = code::decode(&bytes[..first], offset, self.mode);
        if error == DecoderError::NoMoreBytes && first < 15 {
            let next = self.wrap((linear & !0xFFF).wrapping_add(4096));
            if self.is_64() && !self.is_canonical(next) {
                return Err(Fault::GP0);
            }
            self.fetch_bytes(next, &mut bytes[first..])?;
            insn = code::decode(&bytes, offset, self.mode).0;
        }
        if insn.is_invalid() && too_long(&bytes) {
            return Err(Fault::GP0);
        }
        Ok(op::cold(&insn))
    }

    fn fetch_bytes(&mut self, linear: u64, to: &mut [u8]) -> Result<(), Fault> {
        let translated = self.translate(linear, Access::Execute, Actor::Current)?;
        let offset = (linear & 0xFFF) as usize;
        match translated.ram {
            Some(page) => {
                page.read(offset, to);
                Ok(())
            }
            None => self.read_slow(translated.page, offset, to),
        }
    }

    /// One instruction with everything that single instructions bring: shadows end, RF clears, TF traps.
    fn step(&mut self, cache: &mut CodeCache<P>) -> Result<(), Fault> {
        let shadows = self.vcpu.regs.interruptibility & 3;
        let rf = self.system_flags & flags::RF;
        let trap = self.system_flags & flags::TF != 0;
        let mtf = self.primary(control::MONITOR_TRAP_FLAG);
        let retired = self.retired;
        let fetched;
        let op = match self.decoded(cache) {
            Ok(Some(op)) => op,
            Ok(None) => match self.fetch_one() {
                Ok(op) => {
                    fetched = op;
                    &fetched
                }
                Err(fault) => return self.raise(fault),
            },
            Err(fault) => return self.raise(fault),
        };
        self.vcpu.regs.interruptibility &= !3;
        self.system_flags &= !flags::RF;
        self.attention = false;
        let base = self.rip.wrapping_sub(self.code_linear() & 0xFFF);
        self.gpr[REG_PAGE as usize] = base;
        match (op.run)(self, op) {
            Ok(()) => {
                self.retired += 1;
                self.rip = if op.flags & (BRANCH | SOLO) != 0 {
                    self.next_rip
                } else {
                    base.wrapping_add(u64::from(op.next)) & self.mode.ip_mask()
                };
            }
            Err(fault) => {
                self.rip = base.wrapping_add(u64::from(op.start)) & self.mode.ip_mask();
                if fault.is_exit() {
                    self.vcpu.regs.interruptibility |= shadows;
                }
                self.system_flags |= rf;
                self.attention = true;
                self.fault(fault)?;
            }
        }
        if self.retired > retired && trap {
            // BS is bit 14 of the pending debug exceptions.
            self.vcpu.regs.pending_debug |= 1 << 14;
        }
        if mtf {
            return Err(self.exit_plain(ExitReason::MTF));
        }
        self.attention = true;
        Ok(())
    }

    /// The current instruction from the code cache; `None` when it cannot be there.
    fn decoded<'c>(&mut self, cache: &'c mut CodeCache<P>) -> Result<Option<&'c op::Op<P>>, Fault> {
        let linear = self.code_linear();
        let Some(number) = self.find_code(cache, linear)? else {
            return Ok(None);
        };
        let page = cache.page(number);
        let block = page.block((linear & 0xFFF) as usize);
        Ok(block.map(|block| &page.ops[block.first as usize]))
    }

    /// Host events make VM exits.
    fn host_events(&mut self) -> Result<(), Fault> {
        let events = self.platform.pending_events();
        if !events.any() {
            return Ok(());
        }
        let pin = self.vcpu.controls.pin;
        if events.smi {
            return Err(self.exit_plain(ExitReason::SMI_OTHER_EVENT));
        }
        if events.init {
            return Err(self.exit_plain(ExitReason::INIT_EVENT));
        }
        if events.nmi && pin & control::PIN_NMI != 0 {
            return Err(self.exit_with(VmExit {
                interruption_info: 1 << 31 | 2 << 8 | 2,
                ..VmExit::new(ExitReason::EXCEPTION_OR_NMI)
            }));
        }
        if events.interrupt && pin & control::PIN_EXTERNAL_INTERRUPT != 0 {
            let vector = self.platform.acknowledge_interrupt();
            if pin & control::PIN_POSTED_INTERRUPTS != 0
                && u16::from(vector) == self.vcpu.controls.posted_vector
            {
                self.posted_interrupts();
                return Ok(());
            }
            return Err(self.exit_with(VmExit {
                interruption_info: 1 << 31 | u32::from(vector),
                ..VmExit::new(ExitReason::INTERRUPT)
            }));
        }
        Ok(())
    }

    /// Whether [`Cpu::between`] would find nothing to do.
    pub(crate) fn is_quiet(&self) -> bool {
        let regs = &self.vcpu.regs;
        let no_traps = self.pending_trap.is_none()
            && !self.bus_lock
            && self.debug_hits == 0
            && regs.pending_debug & 0x600F == 0
            && regs.dr7 & 0xFF == 0
            && self.system_flags & (flags::TF | flags::RF) == 0;
        let no_windows = !self.primary(control::INTERRUPT_WINDOW)
            && !self.primary(control::NMI_WINDOW)
            && !self.primary(control::MONITOR_TRAP_FLAG)
            && (self.secondary(control::VIRTUAL_INTERRUPT) || !self.primary(control::TPR_SHADOW));
        no_traps
            && no_windows
            && regs.activity == 0
            && regs.interruptibility & (STI_SHADOW | MOV_SS_SHADOW) == 0
            && !(self.interrupts_enabled() && self.virtual_interrupt_pending())
    }

    /// Looks at everything that may come between two instructions, in the order of the manual's priorities (SDM
    /// 6.9 and 26.4).
    fn between(&mut self) -> Result<Next, Fault> {
        self.attention = false;
        if let Some(exit) = self.pending_trap.take() {
            return Err(self.exit_with(exit));
        }
        if core::mem::take(&mut self.bus_lock) {
            let exit = VmExit::new(ExitReason::BUS_LOCK);
            return Err(self.exit_with(VmExit {
                reason: exit.reason | VmExit::BUS_LOCK,
                ..exit
            }));
        }
        self.check_tpr_threshold()?;
        let blocking = self.vcpu.regs.interruptibility;
        let hits = core::mem::take(&mut self.debug_hits);
        if hits != 0 {
            self.vcpu.regs.pending_debug |= hits | 1 << 12;
        }
        if self.vcpu.regs.pending_debug & 0x600F != 0 && blocking & MOV_SS_SHADOW == 0 {
            self.raise_debug()?;
            self.attention = true;
            return Ok(Next::Run);
        }
        let shadow = blocking & (STI_SHADOW | MOV_SS_SHADOW) != 0;
        if self.primary(control::NMI_WINDOW) && blocking & NMI_BLOCKED == 0 && !shadow {
            return Err(self.exit_plain(ExitReason::NMI_WINDOW));
        }
        if self.interrupts_enabled() && !shadow {
            if self.primary(control::INTERRUPT_WINDOW) {
                return Err(self.exit_plain(ExitReason::INTERRUPT_WINDOW));
            }
            if self.virtual_interrupt_pending() {
                self.deliver_virtual_interrupt()?;
                self.attention = true;
                return Ok(Next::Run);
            }
        }
        if self.vcpu.regs.activity != 0 {
            self.attention = true;
            return Ok(Next::Halted);
        }
        let breakpoints = self.vcpu.regs.dr7 & 0xFF != 0;
        if breakpoints && self.system_flags & flags::RF == 0 {
            let hits = self.code_breakpoints();
            if hits != 0 {
                // A fault: RF in the pushed image lets the instruction run afterwards.
                self.vcpu.regs.pending_debug |= hits | 1 << 12;
                self.intercept(&Event::exception(Fault::DB))?;
                self.system_flags |= flags::RF;
                self.raise_debug()?;
                self.attention = true;
                return Ok(Next::Run);
            }
        }
        let step = shadow
            || breakpoints
            || self.system_flags & (flags::TF | flags::RF) != 0
            || self.primary(control::MONITOR_TRAP_FLAG);
        if step {
            self.attention = true;
            return Ok(Next::Step);
        }
        Ok(Next::Run)
    }

    /// DR6 bits of the enabled code breakpoints at RIP.
    fn code_breakpoints(&self) -> u64 {
        let dr7 = self.vcpu.regs.dr7;
        let linear = self.code_linear();
        (0..4)
            .filter(|n| {
                dr7 >> (n * 2) & 3 != 0
                    && dr7 >> (16 + n * 4) & 0xF == 0
                    && self.vcpu.regs.dr[*n] == linear
            })
            .fold(0, |hits, n| hits | 1 << n)
    }
}

/// More than 15 bytes of instruction: #GP(0) rather than #UD. Only prefixes can make it that long.
fn too_long(bytes: &[u8; 15]) -> bool {
    bytes.iter().all(|byte| {
        matches!(
            byte,
            0x26 | 0x2E | 0x36 | 0x3E | 0x64..=0x67 | 0xF0 | 0xF2 | 0xF3 | 0x40..=0x4F
        )
    })
}
