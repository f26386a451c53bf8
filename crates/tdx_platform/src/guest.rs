//! What runs when the module enters a vCPU.

use std::sync::Arc;

use tdx_module::LpId;
use x86_arch::vmx::Vcpu;
use x86_arch::{ExitReason, SecondLevel};
use x86_engine::{EngineKind, Statistics};

use crate::engine::Engines;
use crate::machine::PlatformMachine;
use crate::script::{ScriptCpu, Scripts};

/// The guests of a platform.
pub enum Guests {
    /// Every vCPU plays a script.
    Scripted(Scripts),
    /// Every vCPU runs its own code on the CPU engine.
    Engine(Engines),
    /// Every VM entry is one call of a function, which leaves the exit in the vCPU.
    Stepped(Box<dyn Fn(&mut Vcpu) + Send + Sync>),
}

impl Guests {
    /// Every vCPU runs the code in its memory, on a platform of `lps` processors.
    pub fn engine(lps: usize) -> Guests {
        Guests::engine_of(EngineKind::default(), lps)
    }

    /// The same with an engine of one's choice.
    pub fn engine_of(kind: EngineKind, lps: usize) -> Guests {
        Guests::Engine(Engines::new(kind, lps))
    }

    /// Why the interpreter runs guests although another engine was asked for.
    pub fn refused(&self) -> Option<String> {
        match self {
            Guests::Scripted(_) | Guests::Stepped(_) => None,
            Guests::Engine(engines) => engines.refused(),
        }
    }

    /// The first difference that the lockstep engine found.
    pub fn difference(&self) -> Option<String> {
        match self {
            Guests::Scripted(_) | Guests::Stepped(_) => None,
            Guests::Engine(engines) => engines.difference(),
        }
    }

    /// What the engines translated; `None` where nothing is translated.
    pub fn translated(&self) -> Option<Statistics> {
        match self {
            Guests::Scripted(_) | Guests::Stepped(_) => None,
            Guests::Engine(engines) => engines.translated(),
        }
    }

    /// Instructions that guests completed; none are counted for scripts.
    pub fn retired(&self) -> u64 {
        match self {
            Guests::Scripted(_) | Guests::Stepped(_) => 0,
            Guests::Engine(engines) => engines.retired(),
        }
    }

    /// Why the #VE was raised that a triple fault ended, if one did ([`Engines::unread_ve`]).
    pub fn unread_ve(&self) -> Option<ExitReason> {
        match self {
            Guests::Scripted(_) | Guests::Stepped(_) => None,
            Guests::Engine(engines) => engines.unread_ve(),
        }
    }

    /// Every VM entry calls `step`, which sets `vcpu.exit`: quicker than a script, and without memory.
    pub fn stepped(step: impl Fn(&mut Vcpu) + Send + Sync + 'static) -> Guests {
        Guests::Stepped(Box::new(step))
    }

    /// Every vCPU runs `script`, which finds its index in RSI when it starts.
    ///
    /// The script is ordinary straight-line Rust: it makes TDCALLs and exits through [`ScriptCpu`], and goes on
    /// when the VMM enters the vCPU again. When it returns or panics the vCPU takes a triple fault.
    pub fn scripted(script: impl Fn(&mut ScriptCpu) + Send + Sync + 'static) -> Guests {
        Guests::Scripted(Scripts::new(Arc::new(script)))
    }

    pub(crate) fn invalidate(&self, lp: LpId, vpids: &[u16]) {
        match self {
            Guests::Scripted(_) => {} // the platform's own TLB
            Guests::Stepped(_) => {}
            Guests::Engine(engines) => engines.invalidate(lp, vpids),
        }
    }

    pub(crate) fn run(
        &self,
        machine: &PlatformMachine,
        lp: LpId,
        vcpu: &mut Vcpu,
        second_level: &dyn SecondLevel,
    ) {
        match self {
            Guests::Scripted(scripts) => scripts.run(machine, lp, vcpu, second_level),
            Guests::Engine(engines) => engines.run(machine, lp, vcpu, second_level),
            Guests::Stepped(step) => match machine.event_exit(lp) {
                Some(exit) => vcpu.exit = exit,
                None => step(vcpu),
            },
        }
    }
}
