//! The TDMR planner: from convertible memory to TDMRs, PAMTs and reserved areas within the module's limits,
//! with the reason for each choice (module's rules: spec host-platform.md, TDH.SYS.CONFIG).

mod reason;

use std::fmt;
use std::ops::Range;

use x86_arch::PAGE_SIZE;

pub use reason::{Reason, Why};

use crate::tdmr::{GIB, Tdmr, intersect, subtract};

/// What the module allows, from its metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlanLimits {
    /// MAX_TDMRS.
    pub max_tdmrs: usize,
    /// MAX_RESERVED_PER_TDMR.
    pub max_reserved: usize,
    /// Bytes of a PAMT entry for 4 KiB, 2 MiB and 1 GiB pages.
    pub pamt_entry_sizes: [u16; 3],
}

impl Default for PlanLimits {
    /// Module 1.5.01's.
    fn default() -> Self {
        PlanLimits {
            max_tdmrs: 64,
            max_reserved: 16,
            pamt_entry_sizes: [16; 3],
        }
    }
}

/// A plan, ready for TDH.SYS.CONFIG.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TdmrPlan {
    pub tdmrs: Vec<Tdmr>,
    /// Why each thing is as it is, in the order of deciding.
    pub reasons: Vec<Reason>,
    /// Convertible memory, pieces that touch made one.
    pub convertible: Vec<Range<u64>>,
}

/// Why there is no plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PlanError {
    /// There is no convertible memory.
    NoMemory,
    /// The module allows no TDMR, or no reserved area where one is needed.
    NoRoomInLimits,
    /// No piece of convertible memory holds a TDMR's PAMT.
    NoRoomForPamt { tdmr: Range<u64>, bytes: u64 },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::NoMemory => f.write_str("there is no convertible memory of at least a page"),
            PlanError::NoRoomInLimits => f.write_str("the module's limits allow no plan"),
            PlanError::NoRoomForPamt { tdmr, bytes } => write!(
                f,
                "no piece of convertible memory holds the PAMT of {bytes:#x} bytes of the TDMR [{:#x}, {:#x})",
                tdmr.start, tdmr.end
            ),
        }
    }
}

impl std::error::Error for PlanError {}

impl TdmrPlan {
    /// Bytes of all PAMTs.
    pub fn pamt_bytes(&self) -> u64 {
        self.tdmrs
            .iter()
            .map(|tdmr| tdmr.pamt[2].end - tdmr.pamt[0].start)
            .sum()
    }
    /// Bytes that can be given to TDs.
    pub fn usable_bytes(&self) -> u64 {
        self.tdmrs
            .iter()
            .flat_map(Tdmr::usable)
            .map(|range| range.end - range.start)
            .sum()
    }
}

/// Plans TDMRs for the part of the CMRs that is `memory` of the host.
///
/// Both lists ascend without overlap. Pieces that share a 1 GiB block, or whose blocks touch, become one TDMR.
pub fn plan(
    limits: &PlanLimits,
    cmrs: &[Range<u64>],
    memory: &[Range<u64>],
) -> Result<TdmrPlan, PlanError> {
    let cmrs = joined(
        &cmrs
            .iter()
            .map(whole_pages)
            .filter(|r| r.start < r.end)
            .collect::<Vec<_>>(),
    );
    let memory: Vec<_> = memory
        .iter()
        .map(whole_pages)
        .filter(|r| r.start < r.end)
        .collect();
    let convertible = joined(&intersect(&cmrs, &memory));
    if convertible.is_empty() {
        return Err(PlanError::NoMemory);
    }
    let mut reasons = Vec::new();
    let spans = spans(&convertible, limits, &mut reasons)?;
    let pamts = place_pamts(&spans, &cmrs, &convertible, limits, &mut reasons)?;
    let areas: Vec<Range<u64>> = pamts
        .iter()
        .map(|pamt| pamt[0].start..pamt[2].end)
        .collect();
    let mut tdmrs = Vec::with_capacity(spans.len());
    for (index, (span, pamt)) in spans.into_iter().zip(pamts).enumerate() {
        let mut open = subtract(intersect(&cmrs, std::slice::from_ref(&span)), &areas);
        let mut reserved = subtract(vec![span.clone()], &open);
        while reserved.len() > limits.max_reserved {
            let size = |piece: &Range<u64>| piece.end - piece.start;
            let smallest = (0..open.len())
                .min_by_key(|at| size(&open[*at]))
                .ok_or(PlanError::NoRoomInLimits)?;
            let piece = open.remove(smallest);
            reserved = subtract(vec![span.clone()], &open);
            reasons.push(Reason {
                tdmr: index,
                why: Why::GivenUp {
                    piece,
                    max_reserved: limits.max_reserved,
                },
            });
        }
        tdmrs.push(Tdmr {
            range: span,
            pamt,
            reserved,
        });
    }
    Ok(TdmrPlan {
        tdmrs,
        reasons,
        convertible,
    })
}

/// The 1 GiB spans that become TDMRs.
fn spans(
    convertible: &[Range<u64>],
    limits: &PlanLimits,
    reasons: &mut Vec<Reason>,
) -> Result<Vec<Range<u64>>, PlanError> {
    let rounded: Vec<_> = convertible
        .iter()
        .map(|piece| piece.start & !(GIB - 1)..piece.end.next_multiple_of(GIB))
        .collect();
    let mut spans = joined(&rounded);
    let mut gaps = Vec::new();
    while spans.len() > limits.max_tdmrs {
        let gap = |at: &usize| spans[at + 1].start - spans[*at].end;
        let smallest = (0..spans.len() - 1)
            .min_by_key(gap)
            .ok_or(PlanError::NoRoomInLimits)?;
        let upper = spans.remove(smallest + 1);
        gaps.push(spans[smallest].end..upper.start);
        spans[smallest].end = upper.end;
    }
    for (tdmr, span) in spans.iter().enumerate() {
        let inside: Vec<_> = convertible
            .iter()
            .filter(|piece| span.contains(&piece.start))
            .collect();
        let (first, last) = (inside[0], inside[inside.len() - 1]);
        let (below, above) = (first.start - span.start, span.end - last.end);
        reasons.push(Reason {
            tdmr,
            why: Why::Covers {
                pieces: inside.len(),
                below,
                above,
            },
        });
        for gap in gaps.iter().filter(|gap| span.contains(&gap.start)) {
            let (gap, max_tdmrs) = (gap.clone(), limits.max_tdmrs);
            reasons.push(Reason {
                tdmr,
                why: Why::JoinedOver { gap, max_tdmrs },
            });
        }
    }
    Ok(spans)
}

/// Finds each span a place for its PAMT: the 1 GiB, 2 MiB and 4 KiB tables one behind the other.
fn place_pamts(
    spans: &[Range<u64>],
    cmrs: &[Range<u64>],
    convertible: &[Range<u64>],
    limits: &PlanLimits,
    reasons: &mut Vec<Reason>,
) -> Result<Vec<[Range<u64>; 3]>, PlanError> {
    let mut free = convertible.to_vec();
    let mut pamts = Vec::with_capacity(spans.len());
    for (tdmr, span) in spans.iter().enumerate() {
        let sizes = pamt_sizes(limits, span.end - span.start);
        let bytes = sizes.iter().sum();
        let own = intersect(&free, std::slice::from_ref(span));
        let (area, beside_hole) = match best_place(&own, span, cmrs, bytes) {
            Some(place) => place,
            None => {
                let other = best_place(&free, span, cmrs, bytes);
                other.ok_or(PlanError::NoRoomForPamt {
                    tdmr: span.clone(),
                    bytes,
                })?
            }
        };
        let pamt = area.clone();
        let why = match spans.iter().position(|other| other.contains(&area.start)) {
            Some(host) if host != tdmr => Why::PamtElsewhere { pamt, host },
            _ if beside_hole => Why::PamtBesideHole { pamt },
            _ => Why::PamtAlone { pamt },
        };
        reasons.push(Reason { tdmr, why });
        free = subtract(free, std::slice::from_ref(&area));
        let [large, middle, _] = sizes;
        let (second, third) = (area.start + large, area.start + large + middle);
        pamts.push([area.start..second, second..third, third..area.end]);
    }
    Ok(pamts)
}

/// The best place for `bytes` in `free`: at the end of a piece, so that what is left stays whole; best where no
/// convertible memory follows and the hole there is reserved anyway; among equals the highest.
fn best_place(
    free: &[Range<u64>],
    span: &Range<u64>,
    cmrs: &[Range<u64>],
    bytes: u64,
) -> Option<(Range<u64>, bool)> {
    let fits = free.iter().filter(|piece| piece.end - piece.start >= bytes);
    let place = |piece: &Range<u64>| {
        let hole_above = piece.end < span.end && !cmrs.iter().any(|cmr| cmr.contains(&piece.end));
        (piece.end - bytes..piece.end, hole_above)
    };
    fits.map(place)
        .max_by_key(|(area, hole_above)| (*hole_above, area.start))
}

/// Bytes of the 1 GiB, 2 MiB and 4 KiB tables for a TDMR, each rounded up to a page.
pub fn pamt_sizes(limits: &PlanLimits, tdmr_size: u64) -> [u64; 3] {
    let [small, middle, large] = limits.pamt_entry_sizes;
    [(GIB, large), (2 << 20, middle), (PAGE_SIZE, small)]
        .map(|(page, entry)| (tdmr_size / page * u64::from(entry)).next_multiple_of(PAGE_SIZE))
}

/// The whole pages of a range.
fn whole_pages(range: &Range<u64>) -> Range<u64> {
    let start = range
        .start
        .checked_next_multiple_of(PAGE_SIZE)
        .unwrap_or(!(PAGE_SIZE - 1));
    start..range.end & !(PAGE_SIZE - 1)
}

/// Ranges that ascend, with those that touch or overlap made one.
fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range.clone()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The module's own rules for TDH.SYS.CONFIG.
    fn check(plan: &TdmrPlan, limits: &PlanLimits, cmrs: &[Range<u64>]) {
        let cmrs = joined(
            &cmrs
                .iter()
                .map(whole_pages)
                .filter(|r| r.start < r.end)
                .collect::<Vec<_>>(),
        );
        let inside = |range: &Range<u64>| {
            cmrs.iter()
                .any(|cmr| cmr.start <= range.start && range.end <= cmr.end)
        };
        let meet = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        assert!(!plan.tdmrs.is_empty() && plan.tdmrs.len() <= limits.max_tdmrs);
        for pair in plan.tdmrs.windows(2) {
            assert!(pair[0].range.end <= pair[1].range.start, "TDMRs ascend");
        }
        let pamts: Vec<_> = plan
            .tdmrs
            .iter()
            .flat_map(|tdmr| tdmr.pamt.clone())
            .collect();
        for (at, pamt) in pamts.iter().enumerate() {
            assert!(pamt.start % PAGE_SIZE == 0 && pamt.end % PAGE_SIZE == 0 && inside(pamt));
            assert!(pamts[..at].iter().all(|other| !meet(pamt, other)));
        }
        for tdmr in &plan.tdmrs {
            assert!(tdmr.range.start % GIB == 0 && tdmr.range.end % GIB == 0);
            assert!(tdmr.reserved.len() <= limits.max_reserved);
            for area in &tdmr.reserved {
                assert!(
                    area.start % PAGE_SIZE == 0
                        && area.start >= tdmr.range.start
                        && area.end <= tdmr.range.end
                );
            }
            assert!(
                tdmr.reserved
                    .windows(2)
                    .all(|pair| pair[0].end <= pair[1].start)
            );
            for open in tdmr.usable() {
                assert!(inside(&open), "{open:x?} is not convertible");
                assert!(pamts.iter().all(|pamt| !meet(pamt, &open)));
            }
            let entries = (tdmr.range.end - tdmr.range.start) / PAGE_SIZE;
            assert!(tdmr.pamt[2].end - tdmr.pamt[2].start >= entries * 16);
        }
    }

    /// Totals that Linux printed on real hosts, in KB: TDMRs of `gib` together, one PAMT each.
    fn pamt_kb(tdmr_gib: &[u64]) -> u64 {
        let sizes = tdmr_gib
            .iter()
            .flat_map(|gib| pamt_sizes(&PlanLimits::default(), gib * GIB));
        sizes.sum::<u64>() / 1024
    }

    #[test]
    fn pamt_sizes_are_those_that_real_hosts_print() {
        assert_eq!(pamt_kb(&[2, 126, 64, 32, 32]), 1_050_644);
        assert_eq!(pamt_kb(&[2, 254, 256]), 2_101_260);
        assert_eq!(
            pamt_kb(&[2, 253, 256, 256, 256, 256, 256, 256, 255]),
            8_396_820
        );
    }

    #[test]
    fn a_pamt_goes_beside_a_hole_and_needs_no_reserved_area_of_its_own() {
        let cmrs = [0x10_0000..0x7780_0000, 0x1_0000_0000..0x2_8000_0000];
        let plan = plan(&PlanLimits::default(), &cmrs, &[0..u64::MAX]).unwrap();
        check(&plan, &PlanLimits::default(), &cmrs);
        assert_eq!(
            plan.tdmrs[0].reserved,
            [0..0x10_0000, plan.tdmrs[0].pamt[0].start..0x8000_0000]
        );
        assert_eq!(
            plan.tdmrs[1].reserved,
            [plan.tdmrs[1].pamt[0].start..0x2_8000_0000]
        );
        assert!(
            matches!(plan.reasons[2].why, Why::PamtBesideHole { .. }),
            "{:?}",
            plan.reasons
        );
    }

    #[test]
    fn too_many_pieces_are_joined_and_too_many_holes_are_closed() {
        let limits = PlanLimits {
            max_tdmrs: 2,
            max_reserved: 4,
            ..PlanLimits::default()
        };
        let cmrs: Vec<_> = (0..12)
            .map(|i| i * 3 * GIB..i * 3 * GIB + GIB + i * 4096)
            .collect();
        let plan = plan(&limits, &cmrs, &[0..u64::MAX]).unwrap();
        check(&plan, &limits, &cmrs);
        assert!(
            plan.reasons
                .iter()
                .any(|r| matches!(r.why, Why::JoinedOver { .. }))
        );
        assert!(
            plan.reasons
                .iter()
                .any(|r| matches!(r.why, Why::GivenUp { .. }))
        );
    }

    #[test]
    fn a_region_without_room_takes_its_pamt_from_another() {
        let cmrs = [0x3FFF_E000..0x4000_0000, 0x1_0000_0000..0x1_4000_0000];
        let plan = plan(&PlanLimits::default(), &cmrs, &[0..u64::MAX]).unwrap();
        check(&plan, &PlanLimits::default(), &cmrs);
        assert!(
            plan.reasons
                .iter()
                .any(|r| matches!(r.why, Why::PamtElsewhere { host: 1, .. }))
        );
    }

    #[test]
    fn what_cannot_be_planned_is_refused() {
        let plan = |limits, cmrs: &[Range<u64>]| plan(&limits, cmrs, &[0..u64::MAX]).unwrap_err();
        let limits = PlanLimits::default();
        assert_eq!(plan(limits, &[]), PlanError::NoMemory);
        assert_eq!(plan(limits, &[0x10..0xFFF]), PlanError::NoMemory);
        assert!(matches!(
            plan(limits, &[0x1000..0x8000]),
            PlanError::NoRoomForPamt { .. }
        ));
        assert_eq!(
            plan(
                PlanLimits {
                    max_tdmrs: 0,
                    ..limits
                },
                &[0..GIB]
            ),
            PlanError::NoRoomInLimits
        );
        assert_eq!(
            plan(
                PlanLimits {
                    max_reserved: 0,
                    ..limits
                },
                &[0..GIB]
            ),
            PlanError::NoRoomInLimits
        );
    }

    proptest! {
        #[test]
        fn every_plan_keeps_the_module_s_rules(
            steps in proptest::collection::vec((0..0x10_0000_u64, 1..0x20_0000_u64), 1..32),
            max_tdmrs in 1..65_usize,
            max_reserved in 1..17_usize,
        ) {
            let mut at = 0;
            let cmrs: Vec<_> = steps.iter().map(|(gap, size)| {
                let start = at + gap * PAGE_SIZE;
                at = start + size * PAGE_SIZE;
                start..at
            }).collect();
            let limits = PlanLimits { max_tdmrs, max_reserved, ..PlanLimits::default() };
            match plan(&limits, &cmrs, &[0..u64::MAX]) {
                Ok(plan) => check(&plan, &limits, &cmrs),
                Err(error) => prop_assert!(error != PlanError::NoMemory),
            }
        }
    }
}
