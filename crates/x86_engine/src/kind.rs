//! Which engine runs the guest.

use std::fmt;
use std::str::FromStr;

/// The engines by the names that programs offer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum EngineKind {
    /// The reference: decodes once, executes by handlers. Runs on every host.
    #[default]
    Interpreter,
    /// Hot code is translated for the host's processor; the rest is interpreted. Same results to the last byte.
    Translator,
    /// The translator, each of its blocks checked against the interpreter; the run ends at the first difference
    /// ([`crate::Stop::Difference`]).
    Lockstep,
}

impl EngineKind {
    pub const ALL: [EngineKind; 3] = [
        EngineKind::Interpreter,
        EngineKind::Translator,
        EngineKind::Lockstep,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            EngineKind::Interpreter => "interpreter",
            EngineKind::Translator => "translator",
            EngineKind::Lockstep => "lockstep",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(name: &str) -> Result<EngineKind, String> {
        EngineKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| {
                format!(
                    "no engine is called {name}: there are interpreter, translator and lockstep"
                )
            })
    }
}
