//! The audit at the end of a run: nothing of the TD may be left in the module, and no rule of its may be broken.

use serde::Serialize;
use tdx_call::backend::Schedule;
use tdx_platform::{Platform, StaleTranslation};

/// What is left when the TD is gone; all of it empty if all is well.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Accounts {
    /// 4 KiB pages that the module has, by kind.
    pub pages: Vec<PagesLeft>,
    /// Key IDs that are not free.
    pub key_ids: Vec<u16>,
    /// vCPUs that a processor still has, by TDVPR page.
    pub vcpus: Vec<String>,
    /// Rules of the module's or the machine's that do not hold.
    pub broken_rules: Vec<String>,
    /// The call that kept them, with its status.
    pub cause: Option<String>,
}

/// Pages of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PagesLeft {
    pub kind: String,
    pub count: u64,
    pub first: String,
}

/// A rule of --fault and what it came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FaultSummary {
    pub rule: String,
    /// Calls at its site.
    pub calls: u32,
    /// Those of them that it disturbed.
    pub hits: u32,
}

impl Accounts {
    /// What is left now; no call may be in progress. `before`: rules that were broken before the TD went.
    pub fn of(platform: &Platform, before: Vec<String>, cause: Option<String>) -> Accounts {
        let in_use = platform.module().in_use();
        let mut pages: Vec<PagesLeft> = Vec::new();
        for page in &in_use.pages {
            let kind = page.page_type.to_string();
            match pages.iter_mut().find(|left| left.kind == kind) {
                Some(left) => left.count += page.size.pages(),
                None => pages.push(PagesLeft {
                    kind,
                    count: page.size.pages(),
                    first: page.hpa.to_string(),
                }),
            }
        }
        let mut broken_rules = before;
        for rule in broken(platform) {
            if !broken_rules.contains(&rule) {
                broken_rules.push(rule);
            }
        }
        Accounts {
            pages,
            key_ids: in_use.hkids.iter().map(|hkid| hkid.0).collect(),
            vcpus: in_use
                .associated
                .iter()
                .map(|(at, _)| at.to_string())
                .collect(),
            broken_rules,
            cause,
        }
    }

    pub fn is_clean(&self) -> bool {
        *self == Accounts::default()
    }

    /// One line for people.
    pub fn line(&self) -> String {
        if self.is_clean() {
            return "clean: no page, key ID or vCPU is left in the module".to_owned();
        }
        let mut parts = Vec::new();
        for left in &self.pages {
            parts.push(format!(
                "{} {} page(s) from {} on",
                left.count, left.kind, left.first
            ));
        }
        for id in &self.key_ids {
            parts.push(format!("key ID {id}"));
        }
        for at in &self.vcpus {
            parts.push(format!("the vCPU at {at} on its processor"));
        }
        let mut line = match parts.is_empty() {
            true => String::new(),
            false => format!("left in the module: {}", parts.join(", ")),
        };
        for rule in &self.broken_rules {
            line += if line.is_empty() { "" } else { "; " };
            line += &format!("broken rule: {rule}");
        }
        if let Some(cause) = &self.cause {
            line += &format!("; kept by {cause}");
        }
        line
    }
}

/// The rules that do not hold now, and translations that outlived their page.
pub fn broken(platform: &Platform) -> Vec<String> {
    let found = platform.module().audit();
    let mut rules: Vec<String> = found.iter().map(|rule| format!("{rule:?}")).collect();
    for StaleTranslation { tdr, lp, page } in platform.stale_translations() {
        rules.push(format!(
            "processor {lp} could still reach page {page}, which the TD at {tdr} no longer had: a TLB flush was lost"
        ));
    }
    rules
}

/// What each rule of --fault came to.
pub fn faults(schedule: &Schedule) -> Vec<FaultSummary> {
    let summary = |(rule, calls, hits): (tdx_call::backend::FaultRule, u32, u32)| FaultSummary {
        rule: rule.to_string(),
        calls,
        hits,
    };
    schedule.counts().map(summary).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named_with_the_call_that_kept_it() {
        assert!(Accounts::default().line().starts_with("clean"));
        let left = Accounts {
            pages: vec![PagesLeft {
                kind: "PT_TDR".to_owned(),
                count: 1,
                first: "0x101000".to_owned(),
            }],
            key_ids: vec![33],
            vcpus: vec!["0x109000".to_owned()],
            broken_rules: vec!["Orphan(0x5000)".to_owned()],
            cause: Some("TDH.VP.FLUSH: TDX_TD_FATAL".to_owned()),
        };
        assert_eq!(
            left.line(),
            "left in the module: 1 PT_TDR page(s) from 0x101000 on, key ID 33, the vCPU at 0x109000 on its \
             processor; broken rule: Orphan(0x5000); kept by TDH.VP.FLUSH: TDX_TD_FATAL"
        );
    }
}
