//! Why a plan is as it is.

use std::fmt;
use std::ops::Range;

/// One choice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reason {
    /// The TDMR it is about.
    pub tdmr: usize,
    pub why: Why,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// The TDMR covers these pieces of convertible memory, rounded out to 1 GiB.
    Covers {
        pieces: usize,
        below: u64,
        above: u64,
    },
    /// It is joined with its neighbour over a gap, since there may not be more TDMRs.
    JoinedOver { gap: Range<u64>, max_tdmrs: usize },
    /// Its PAMT lies next to memory that is reserved anyway: one reserved area for both.
    PamtBesideHole { pamt: Range<u64> },
    /// Its PAMT takes a reserved area of its own.
    PamtAlone { pamt: Range<u64> },
    /// Its PAMT lies in the memory of another TDMR, having no room in its own.
    PamtElsewhere { pamt: Range<u64>, host: usize },
    /// A piece of convertible memory is given up, since there may not be more reserved areas.
    GivenUp {
        piece: Range<u64>,
        max_reserved: usize,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |r: &Range<u64>| format!("[{:#x}, {:#x})", r.start, r.end);
        match self {
            Why::Covers {
                pieces,
                below: 0,
                above: 0,
            } => write!(f, "covers {pieces} piece(s) of memory exactly"),
            Why::Covers {
                pieces,
                below,
                above,
            } => write!(
                f,
                "covers {pieces} piece(s) of memory, rounded out to 1 GiB by {below:#x} bytes below and {above:#x} above"
            ),
            Why::JoinedOver { gap, max_tdmrs } => {
                write!(
                    f,
                    "joined over the gap {}, the smallest one: at most {max_tdmrs} TDMRs",
                    range(gap)
                )
            }
            Why::PamtBesideHole { pamt } => {
                write!(
                    f,
                    "PAMT at {}: beside a hole, so both are one reserved area",
                    range(pamt)
                )
            }
            Why::PamtAlone { pamt } => {
                write!(f, "PAMT at {}: a reserved area of its own", range(pamt))
            }
            Why::PamtElsewhere { pamt, host } => {
                write!(
                    f,
                    "PAMT at {}: in the memory of TDMR {host}, having no room in its own",
                    range(pamt)
                )
            }
            Why::GivenUp {
                piece,
                max_reserved,
            } => write!(
                f,
                "{} is given up, the smallest piece: at most {max_reserved} reserved areas",
                range(piece)
            ),
        }
    }
}
