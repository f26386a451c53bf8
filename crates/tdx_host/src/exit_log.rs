//! The last TD exits of a run, for a debugger's user.

use std::collections::VecDeque;
use std::fmt;

use coco_regs::{ExitKind, ExitWords};
use x86_arch::ExitReason;

use crate::tdvmcall::SubFunction;

/// The newest exits, as many as it was made for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExitLog {
    last: VecDeque<LoggedExit>,
    most: usize,
}

/// One TD exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoggedExit {
    /// Index of the vCPU.
    pub vcpu: u32,
    pub words: ExitWords,
    /// What a TDVMCALL asked for.
    pub function: Option<SubFunction>,
}

impl ExitLog {
    pub fn new(most: usize) -> ExitLog {
        ExitLog {
            last: VecDeque::with_capacity(most),
            most,
        }
    }

    pub(crate) fn push(&mut self, exit: LoggedExit) {
        if self.last.len() == self.most {
            self.last.pop_front();
        }
        self.last.push_back(exit);
    }

    /// The last `count` exits of a vCPU, oldest first.
    pub fn last(&self, vcpu: u32, count: usize) -> Vec<LoggedExit> {
        let of_vcpu = self.last.iter().rev().filter(|exit| exit.vcpu == vcpu);
        let mut last: Vec<_> = of_vcpu.take(count).copied().collect();
        last.reverse();
        last
    }
}

impl fmt::Display for LoggedExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = &self.words;
        if words.kind() == ExitKind::Tdvmcall {
            write!(f, "TDVMCALL")?;
            if let Some(function) = self.function {
                write!(f, " {function}")?;
            }
            return write!(f, ", mask {:#x}", words.rcx as u32);
        }
        let reason = ExitReason(words.exit_reason() as u16);
        write!(f, "{reason}")?;
        if words.rax.raw() >> 32 != 0 {
            write!(f, ", {}", words.rax)?;
        }
        match reason {
            ExitReason::EPT_VIOLATION => {
                write!(f, ", GPA {:#x}, qualification {:#x}", words.r8, words.rcx)
            }
            ExitReason::INTERRUPT => write!(f, ", vector {:#x}", words.r9 & 0xFF),
            ExitReason::EXCEPTION_OR_NMI => write!(
                f,
                ", vector {}, qualification {:#x}",
                words.r9 & 0xFF,
                words.rcx
            ),
            _ if words.rcx != 0 => write!(f, ", qualification {:#x}", words.rcx),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tdx_abi::Status;

    fn exit(vcpu: u32, rax: u64) -> LoggedExit {
        LoggedExit {
            vcpu,
            words: ExitWords {
                rax: Status(rax),
                ..Default::default()
            },
            function: None,
        }
    }

    #[test]
    fn the_oldest_make_room() {
        let mut log = ExitLog::new(3);
        for rax in [1, 1, 48, 1] {
            log.push(exit(0, rax));
        }
        log.push(exit(1, 12));
        let reasons = |vcpu, count| -> Vec<u64> {
            let last = log.last(vcpu, count);
            last.iter().map(|e| e.words.rax.raw()).collect()
        };
        assert_eq!(reasons(0, 10), [48, 1]);
        assert_eq!(reasons(0, 1), [1]);
        assert_eq!(reasons(1, 10), [12]);
    }

    #[test]
    fn an_exit_is_told_in_words() {
        let mut call = exit(0, 77);
        call.words.rcx = 0xFC00;
        call.function = Some(SubFunction(30));
        assert_eq!(call.to_string(), "TDVMCALL Instruction.IO, mask 0xfc00");
        let mut violation = exit(0, 48);
        (violation.words.r8, violation.words.rcx) = (0x20_0000, 2);
        assert_eq!(
            violation.to_string(),
            "EPT_VIOLATION, GPA 0x200000, qualification 0x2"
        );
    }
}
