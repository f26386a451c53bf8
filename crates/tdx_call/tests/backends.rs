//! Traced, Faulty and Replay around the fake TD.
#![forbid(unsafe_code)]

mod fake_td;

use coco_regs::GprFile;
use fake_td::{FakeTd, Next};
use proptest::prelude::*;
use tdx_abi::{HostLeaf, OperandId, Status};
use tdx_call::backend::{
    Disturbance, Fault, FaultRule, Faulty, InvalidFaultRule, Recorded, Replay, Schedule, Traced,
    When,
};
use tdx_call::host::{tdh_mng_create, tdh_mng_rd, tdh_sys_rd};
use tdx_call::retry::{Retry, resume};
use tdx_call::{
    CallError, Direct, FieldId, LastExit, Leaf, NoSeam, Progress, SeamcallLp, SoftwareSeam,
    TdvprAndFlags, TdxModuleArgs, Traffic, VpEntry,
};
use x86_arch::{Gpr, Hkid, Hpa};

/// The fake TD for VP.ENTER; other leaves add one to every register.
struct Module(FakeTd);

impl SoftwareSeam for Module {
    fn seamcall(
        &mut self,
        gprs: &mut GprFile,
        xmms: &mut coco_regs::XmmFile,
    ) -> Result<(), NoSeam> {
        if gprs[Gpr::Rax] == 0 {
            return self.0.seamcall(gprs, xmms);
        }
        for reg in [Gpr::Rcx, Gpr::Rdx, Gpr::R8] {
            gprs[reg] += 1;
        }
        gprs[Gpr::Rax] = 0;
        Ok(())
    }
}

fn module(next: Next) -> Direct<Module> {
    let mut td = FakeTd::new(true);
    td.next = next;
    Direct(Module(td))
}

/// What a VMM does: a leaf, an entry that ends in a TDVMCALL, its answer. Returns what it saw.
fn life(lp: &mut impl SeamcallLp) -> (Result<u64, CallError>, Vec<LastExit>, GprFile) {
    let tdr = tdx_call::Tdr(Hpa::new(0x1000));
    let value = tdh_mng_rd(lp, tdr, FieldId(3));
    let mut file = GprFile([9; 16]);
    let mut entry = VpEntry::new(TdvprAndFlags(FakeTd::TDVPR), &mut file, None);
    let mut exits = Vec::new();
    for _ in 0..3 {
        let _ = lp.vp_enter(&mut entry);
        exits.push(entry.last());
        let (file, _) = entry.files();
        file[Gpr::R10] = 0x5555;
    }
    (value, exits, file)
}

#[test]
fn a_recording_answers_the_same_calls_with_the_same_results() {
    let mut recording = Vec::new();
    let mut traced = Traced::new(module(Next::Tdvmcall(0xFC00)), |call: &Recorded| {
        recording.push(*call)
    });
    let seen = life(&mut traced);
    assert_eq!(recording.len(), 4);
    let mut replay = Replay::new(recording.iter().copied());
    assert_eq!(life(&mut replay), seen);
    assert_eq!(replay.result(), Ok(()));
    assert_eq!(replay.into_rest().count(), 0);
    let lines: Vec<_> = recording.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines[0],
        "TDH.MNG.RD RCX 0x1000 RDX 0x3 -> TDX_SUCCESS RCX 0x1001 RDX 0x4 R8 0x1"
    );
    assert!(
        lines[1].starts_with("TDH.VP.ENTER RCX 0x70000 -> TDVMCALL RCX 0xfc00 R10 0x"),
        "{}",
        lines[1]
    );
    assert!(
        lines[2].contains("R10 0x5555"),
        "the answer crossed: {}",
        lines[2]
    );
}

#[test]
fn a_replay_names_the_first_call_that_differs_and_answers_none_after_it() {
    let mut recording = Vec::new();
    let mut traced = Traced::new(module(Next::Tdvmcall(0xFC00)), |call: &Recorded| {
        recording.push(*call)
    });
    let (value, ..) = life(&mut traced);
    assert_eq!(value, Ok(1));
    let mut replay = Replay::new(recording.iter().copied());
    let other = tdh_sys_rd(&mut replay, FieldId(3));
    assert_eq!(
        other,
        Err(CallError::NoSeam {
            leaf: Leaf::Host(HostLeaf::SYS_RD),
            why: NoSeam::VmFailInvalid
        })
    );
    let mismatch = replay.result().unwrap_err();
    assert_eq!(
        mismatch.to_string(),
        "call 0: TDH.SYS.RD, recorded is TDH.MNG.RD"
    );
    let (value, exits, file) = life(&mut replay);
    assert!(value.is_err());
    assert_eq!(exits, [LastExit::Asynchronous; 3]);
    assert_eq!(file[Gpr::R11], 9, "nothing was stored");
    assert_eq!(replay.result(), Err(mismatch), "the first one stays");
}

#[test]
fn a_rule_fails_exactly_the_calls_it_names() {
    let rules = [
        "busy:TDH.MNG.RD@2",
        "0x8000020000000092:TDH.VP.ENTER@1+2",
        "no-module:TDH.SYS.RD",
    ]
    .map(|text| text.parse::<FaultRule>().expect("a rule"));
    let schedule = Schedule::<16>::new(rules, 0);
    let mut lp = Faulty::new(module(Next::Tdvmcall(0xFC00)), &schedule);
    let mut call = |leaf: HostLeaf| {
        let mut args = TdxModuleArgs::default();
        lp.seamcall(leaf.word(), &mut args, Traffic::InOut)
    };
    let busy = Ok(Status::OPERAND_BUSY);
    assert_eq!(
        [(); 3].map(|()| call(HostLeaf::MNG_RD)),
        [Ok(Status::SUCCESS), busy, Ok(Status::SUCCESS)]
    );
    assert_eq!(
        [(); 2].map(|()| call(HostLeaf::SYS_RD)),
        [Err(NoSeam::VmFailInvalid); 2]
    );
    assert_eq!(call(HostLeaf::MNG_WR), Ok(Status::SUCCESS));

    let mut file = GprFile::default();
    let mut entry = VpEntry::new(TdvprAndFlags(FakeTd::TDVPR), &mut file, None)
        .after(LastExit::Tdvmcall { mask: 0x400 });
    let sept = Status::OPERAND_BUSY.with_operand(OperandId::SEPT_TREE);
    for _ in 0..2 {
        assert_eq!(lp.vp_enter(&mut entry), Ok(sept));
        assert_eq!(
            entry.last(),
            LastExit::Tdvmcall { mask: 0x400 },
            "the answer stays owed"
        );
    }
    assert_eq!(lp.vp_enter(&mut entry), Ok(Status(77)));
}

#[test]
fn a_wrong_rule_says_what_is_wrong() {
    let parse = |text: &str| text.parse::<FaultRule>();
    assert_eq!(parse("busy"), Err(InvalidFaultRule::NoColon));
    assert_eq!(parse("tired:TDH.MNG.RD"), Err(InvalidFaultRule::What));
    assert_eq!(parse("busy:TDH.MNG"), Err(InvalidFaultRule::Where));
    assert_eq!(parse("busy:RCX"), Err(InvalidFaultRule::Where));
    assert_eq!(
        parse("poison:TDH.MNG.CREATE"),
        Err(InvalidFaultRule::NoPage)
    );
    for text in [
        "busy:TDH.MNG.RD@0",
        "busy:TDH.MNG.RD@x",
        "busy:TDH.MNG.RD@1+0",
        "busy:TDH.MNG.RD@",
        "busy:TDH.MNG.RD@/0",
        "busy:TDH.MNG.RD@~",
    ] {
        assert_eq!(parse(text), Err(InvalidFaultRule::When), "{text}");
    }
    let named = parse("TDX_TD_FATAL:tdh.vp.enter").expect("names in any case");
    assert_eq!(
        (named.fault, named.when),
        (Fault::Answer(Status::TD_FATAL), When::Always)
    );
    for text in [
        "busy:SEPT_TREE@3",
        "interrupted:TDH.PHYMEM.CACHE.WB@1+2",
        "no-entropy:*@/100",
        "listed:*@~200",
        "gp:TDH.SYS.INIT",
        "lost:TDH.MEM.TRACK@1",
        "interrupt:TDH.MEM.PAGE.DEMOTE",
        "poison:TDH.MEM.PAGE.AUG@2",
        "lost-flush:TDH.VP.ENTER",
        "lie:TDH.VP.ENTER@~10",
        "0x8000020000000092:TDH.VP.ENTER@1+2",
    ] {
        assert_eq!(
            parse(text).map(|rule| rule.to_string()),
            Ok(text.to_owned())
        );
    }
}

#[test]
fn a_rule_finds_its_calls_by_lock_by_count_and_by_seed() {
    let answers = |rule: &str, seed: u64, leaves: &[HostLeaf]| -> Vec<Option<Status>> {
        let schedule = Schedule::<16>::new([rule.parse().expect("a rule")], seed);
        let mut lp = Faulty::new(module(Next::Tdvmcall(0)), &schedule);
        let mut call = |leaf: &HostLeaf| {
            let answer = lp.seamcall(leaf.word(), &mut TdxModuleArgs::default(), Traffic::InOut);
            answer.ok().filter(|status| *status != Status::SUCCESS)
        };
        leaves.iter().map(&mut call).collect()
    };
    let busy = |operand| Some(Status::OPERAND_BUSY.with_operand(operand));
    let (aug, rd, init) = (HostLeaf::MEM_PAGE_AUG, HostLeaf::SYS_RD, HostLeaf::SYS_INIT);
    assert_eq!(
        answers(
            "busy:SEPT_TREE@2+2",
            0,
            &[aug, rd, aug, rd, HostLeaf::MEM_RANGE_BLOCK, aug]
        ),
        [
            None,
            None,
            busy(OperandId::SEPT_TREE),
            None,
            busy(OperandId::SEPT_TREE),
            None
        ]
    );
    assert_eq!(
        answers("busy:TDR", 0, &[aug, rd]),
        [busy(OperandId::RDX), None]
    );
    assert_eq!(answers("busy:sys", 0, &[init]), [Some(Status::SYS_BUSY)]);
    assert_eq!(
        answers(
            "interrupted:*",
            0,
            &[HostLeaf::MEM_PAGE_DEMOTE, HostLeaf::PHYMEM_CACHE_WB]
        ),
        [
            Some(Status::INTERRUPTED_RESTARTABLE),
            Some(Status::INTERRUPTED_RESUMABLE)
        ]
    );
    let hit = |when: &str, seed| -> Vec<usize> {
        let all = answers(&format!("no-entropy:*@{when}"), seed, &[rd; 1000]);
        let hits = all
            .iter()
            .enumerate()
            .filter(|(_, answer)| answer.is_some());
        hits.map(|(at, _)| at + 1).collect()
    };
    assert_eq!(hit("/300", 0), [300, 600, 900]);
    let drawn = hit("~20", 5);
    assert!((25..100).contains(&drawn.len()), "{drawn:?}");
    assert_eq!(drawn, hit("~20", 5), "the same seed draws the same calls");
    assert_ne!(drawn, hit("~20", 6));
    let listed = answers("listed:*", 1, &[HostLeaf::MNG_CREATE; 100]);
    let row = HostLeaf::MNG_CREATE.row().expect("a row");
    for status in row.statuses {
        assert!(listed.contains(&Some(*status)), "{status} was never drawn");
    }
    assert!(
        listed
            .iter()
            .flatten()
            .all(|status| row.statuses.contains(status))
    );
}

#[test]
fn what_only_hardware_can_do_surrounds_the_call() {
    let rules = [
        "interrupt:TDH.MEM.TRACK",
        "poison:TDH.MEM.PAGE.AUG@2",
        "lost-flush:TDH.VP.ENTER",
    ];
    let schedule = Schedule::<16>::new(rules.map(|text| text.parse().expect("a rule")), 0);
    let mut seen = Vec::new();
    let td = module(Next::Tdvmcall(0));
    let mut lp = Faulty::on(td, &schedule, |what| seen.push(what));
    let args = TdxModuleArgs {
        r8: 0x5000,
        ..Default::default()
    };
    for leaf in [
        HostLeaf::MEM_TRACK,
        HostLeaf::MEM_PAGE_AUG,
        HostLeaf::MEM_PAGE_AUG,
    ] {
        let mut args = args;
        lp.seamcall(leaf.word(), &mut args, Traffic::In)
            .expect("a module");
    }
    let mut file = GprFile::default();
    let mut entry = VpEntry::new(TdvprAndFlags(FakeTd::TDVPR), &mut file, None);
    lp.vp_enter(&mut entry).expect("a module");
    assert_eq!(
        seen,
        [
            Disturbance::InterruptArrives,
            Disturbance::InterruptTaken,
            Disturbance::Poison(Hpa::new(0x5000)),
            Disturbance::FlushesLost,
            Disturbance::FlushesWork,
        ]
    );
    let counts: Vec<_> = schedule
        .counts()
        .map(|(_, calls, hits)| (calls, hits))
        .collect();
    assert_eq!(counts, [(1, 1), (2, 1), (1, 1)]);
}

#[test]
fn a_lie_reaches_only_the_registers_that_the_guest_shows() {
    let schedule = Schedule::<16>::new(["lie:TDH.VP.ENTER".parse().expect("a rule")], 3);
    let mut lp = Faulty::new(module(Next::Tdvmcall(0xFC00)), &schedule);
    let mut file = GprFile([0x77; 16]);
    let mut entry = VpEntry::new(TdvprAndFlags(FakeTd::TDVPR), &mut file, None);
    lp.vp_enter(&mut entry).expect("a module");
    assert_eq!(
        entry.owed().bits(),
        0xFC00,
        "the first entry answered nothing"
    );
    let asked = *entry.files().0;
    lp.vp_enter(&mut entry).expect("a module");
    let told = *entry.files().0;
    assert_eq!(asked.0[..10], told.0[..10]);
    assert_eq!(told[Gpr::Rbx], 0x77);
}

proptest! {
    #[test]
    fn no_text_makes_the_rule_parser_panic(text in ".{0,40}") {
        let _ = text.parse::<FaultRule>();
    }
}

#[test]
fn a_retry_policy_repeats_what_it_names_and_no_more() {
    let create = |rules: &[&str], retry: Retry| {
        let rules = rules.iter().map(|text| text.parse().expect("a rule"));
        let schedule = Schedule::<16>::new(rules, 0);
        let mut calls = 0;
        let traced = Traced::new(
            Faulty::new(module(Next::Tdvmcall(0)), &schedule),
            |_: &Recorded| calls += 1,
        );
        let mut lp = traced;
        let result =
            retry.run(|| tdh_mng_create(&mut lp, tdx_call::Tdr(Hpa::new(0x1000)), Hkid(1)));
        (calls, result.map_err(|error| error.status()))
    };
    let entropy = Status::RND_NO_ENTROPY;
    let rule = ["no-entropy:TDH.MNG.CREATE@1+9"];
    assert_eq!(create(&rule, Retry::NO_ENTROPY), (10, Ok(Status::SUCCESS)));
    assert_eq!(
        create(&["no-entropy:TDH.MNG.CREATE@1+10"], Retry::NO_ENTROPY),
        (10, Err(entropy))
    );
    assert_eq!(create(&rule, Retry::BUSY), (1, Err(entropy)));
    let both = ["busy:TDH.MNG.CREATE@1+3", "no-entropy:TDH.MNG.CREATE@4+2"];
    assert_eq!(
        create(&both, Retry::BUSY.and(Retry::NO_ENTROPY)),
        (6, Ok(Status::SUCCESS))
    );
    assert_eq!(create(&both, Retry::NEVER), (1, Err(Status::OPERAND_BUSY)));
    assert_eq!(
        create(&["TD_FATAL:TDH.MNG.CREATE"], Retry::BUSY),
        (1, Err(Status::TD_FATAL))
    );
}

#[test]
fn an_interrupted_leaf_goes_on_with_what_it_returned() {
    let mut steps = 0;
    let done = resume(5, |last: Option<u64>| {
        steps += 1;
        let at = last.unwrap_or(0) + 10;
        Ok(if at < 30 {
            Progress::Interrupted(at)
        } else {
            Progress::Done(at)
        })
    });
    assert_eq!((steps, done), (3, Ok(Progress::Done(30))));
    let mut steps = 0;
    let stopped = resume(2, |_: Option<()>| {
        steps += 1;
        Ok(Progress::Interrupted(()))
    });
    assert_eq!((steps, stopped), (3, Ok(Progress::Interrupted(()))));
}
