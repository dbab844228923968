use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::primitives::UnixTime;

const CARD: u64 = 24_576;

fn able() -> Abilities {
    Abilities { unload: true, load: true, cleanup: true, process: true, canary: false }
}

fn at_rest(name: &str, resident: u64) -> Standing {
    Standing {
        worker: name.into(),
        residency: Residency::OnDemand,
        state: WorkerState::Resident,
        abilities: able(),
        held: MiB(resident),
        resident: MiB(resident),
        context: MiB(400.min(resident)),
        in_use: false,
        due_in: Duration::MAX,
        idle: Duration::ZERO,
        tried: Tried::default(),
    }
}

fn unloaded(name: &str, resident: u64) -> Standing {
    Standing { state: WorkerState::Unloaded, held: MiB(400), ..at_rest(name, resident) }
}

fn scorer() -> Standing {
    Standing { abilities: Abilities { canary: true, ..able() }, ..at_rest("scorer", 4_813) }
}

/// Loads nothing until it works, and then everything.
fn generator() -> Standing {
    at_rest("generator", 400)
}

fn wanted(name: &str, need: u64) -> Wanted {
    Wanted { worker: name.into(), need: MiB(need), reach: Reach::AllButPinned }
}

fn budget() -> Budget {
    Budget { limit: MiB(CARD), margin: MiB(512), foreign: MiB::ZERO, looked: true }
}

fn steps(residents: &[Standing], wanted: &Wanted) -> Vec<String> {
    let plan = plan(residents, wanted, &budget(), Urgency::Usual).unwrap();
    plan.steps.iter().map(Step::to_string).collect()
}

#[test]
fn what_fits_is_left_alone_and_the_sums_say_why() {
    let residents = [at_rest("generator", 6_000), scorer()];
    let plan = plan(&residents, &wanted("generator", 18_000), &budget(), Urgency::Usual).unwrap();
    assert!(plan.is_nothing() && plan.evicted.is_empty());
    assert_eq!(
        plan.before.to_string(),
        "generator needs 18000 MiB; 24576 MiB - 512 MiB margin - 4813 MiB scorer = 19251 MiB"
    );
}

#[test]
fn the_scorer_leaves_for_the_reference_generator_and_comes_back() {
    let residents = [generator(), scorer()];
    let out = plan(&residents, &wanted("generator", 20_070), &budget(), Urgency::Usual).unwrap();
    assert_eq!(out.steps, [Step::Unload("scorer".into())]);
    assert_eq!(out.evicted, [WorkerId::from("scorer")]);
    let gone = [generator(), Standing { state: WorkerState::Unloaded, held: MiB(400), ..scorer() }];
    assert_eq!(steps(&gone, &wanted("scorer", 4_813)), ["load scorer", "canary scorer"]);
}

#[test]
fn caches_go_before_models() {
    let hoarder = Standing { held: MiB(19_000), ..at_rest("generator", 6_000) };
    let residents = [hoarder.clone(), unloaded("scorer", 5_500)];
    assert_eq!(steps(&residents, &wanted("scorer", 5_500)), ["cleanup generator", "load scorer"]);
    // Even those of a pinned one, but never those of one at work.
    let pinned = Standing { residency: Residency::Pinned, ..hoarder.clone() };
    let residents = [pinned, unloaded("scorer", 5_500)];
    assert_eq!(steps(&residents, &wanted("scorer", 5_500)), ["cleanup generator", "load scorer"]);
    let busy = Standing { in_use: true, ..hoarder };
    let refused =
        plan(&[busy, unloaded("scorer", 5_500)], &wanted("scorer", 5_500), &budget(), Urgency::Usual);
    assert!(matches!(refused, Err(Unplaceable::NoRoom(_))));
}

#[test]
fn the_least_needed_leave_and_no_more_than_must() {
    let a = Standing { idle: Duration::from_secs(60), ..at_rest("a", 1_000) };
    let b = at_rest("b", 10_000);
    let c =
        Standing { residency: Residency::Preferred, idle: Duration::from_secs(900), ..at_rest("c", 9_000) };
    let w = unloaded("w", 9_000);
    // `a` is needed least but does not help; `c` is preferred.
    assert_eq!(steps(&[a, b.clone(), c.clone(), w], &wanted("w", 9_000)), ["unload b", "load w"]);
    // Both must go, the one that is needed later first.
    let soon = Standing { due_in: Duration::from_secs(3), ..at_rest("soon", 10_000) };
    let residents = [soon, b, generator()];
    assert_eq!(steps(&residents, &wanted("generator", 20_000)), ["unload b", "unload soon"]);
}

#[test]
fn contexts_go_when_nothing_else_is_left() {
    let residents = [scorer(), unloaded("enhancer", 3_000), generator()];
    assert_eq!(steps(&residents, &wanted("generator", CARD - 512 - 500)), ["stop scorer"]);
    assert_eq!(steps(&residents, &wanted("generator", CARD - 512)), ["stop scorer", "stop enhancer"]);
}

#[test]
fn pinned_workers_that_leave_no_room_are_named() {
    let residents = [generator(), Standing { residency: Residency::Pinned, ..scorer() }];
    let refused = plan(&residents, &wanted("generator", 20_070), &budget(), Urgency::Usual).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "there is no room: generator needs 20070 MiB; 24576 MiB - 512 MiB margin - 4813 MiB scorer = 19251 MiB"
    );
}

#[test]
fn a_worker_that_is_brought_back_takes_only_lesser_places() {
    let back = Wanted { reach: Reach::Below(Residency::Preferred), ..wanted("w", 9_000) };
    let residents = [at_rest("a", 16_000), unloaded("w", 9_000)];
    assert_eq!(steps(&residents, &back), ["unload a", "load w"]);
    let equal = Standing { residency: Residency::Preferred, ..at_rest("a", 16_000) };
    let refused = plan(&[equal.clone(), unloaded("w", 9_000)], &back, &budget(), Urgency::Usual);
    assert!(matches!(refused, Err(Unplaceable::NoRoom(_))));
    let failed = Standing { state: WorkerState::Failed { since: UnixTime::EPOCH }, ..equal };
    assert_eq!(steps(&[failed, unloaded("w", 9_000)], &back), ["unload a", "load w"]);
}

#[test]
fn what_does_not_go_one_way_goes_another() {
    let tried = |out, into| Tried { out, into };
    let out = |tried| steps(&[generator(), Standing { tried, ..scorer() }], &wanted("generator", 20_070));
    assert_eq!(out(tried(1, 0)), ["cleanup scorer", "unload scorer"]);
    assert_eq!(out(tried(2, 0)), ["stop scorer"]);
    let stuck = [generator(), Standing { tried: tried(3, 0), ..scorer() }];
    assert!(plan(&stuck, &wanted("generator", 20_070), &budget(), Urgency::Usual).is_err());

    let into = |state, tried| {
        let scorer = Standing { state, tried, held: MiB(400), ..scorer() };
        steps(&[generator(), scorer], &wanted("scorer", 4_813))
    };
    let whole = ["unload scorer", "cleanup scorer", "load scorer", "canary scorer"];
    assert_eq!(into(WorkerState::Unloaded, tried(0, 0)), ["load scorer", "canary scorer"]);
    assert_eq!(into(WorkerState::Unknown, tried(0, 1)), whole);
    assert_eq!(into(WorkerState::Unknown, tried(0, 0)), whole);
    assert_eq!(into(WorkerState::Unknown, tried(0, 2)), ["stop scorer", "start scorer", "canary scorer"]);
    assert_eq!(into(WorkerState::Stopped, tried(0, 0)), ["start scorer", "canary scorer"]);
    assert_eq!(into(WorkerState::Stopped, tried(0, 1)), ["stop scorer", "start scorer", "canary scorer"]);
    let lost = Standing { state: WorkerState::Unknown, tried: tried(0, 3), ..scorer() };
    let refused = plan(&[lost], &wanted("scorer", 4_813), &budget(), Urgency::Usual);
    assert_eq!(refused, Err(Unplaceable::NoWay("scorer".into())));
}

#[test]
fn one_without_verbs_is_used_as_it_is_and_one_without_load_loads_itself() {
    let steady = Standing { abilities: Abilities::default(), state: WorkerState::Unknown, ..generator() };
    assert!(steps(&[steady], &wanted("generator", 20_000)).is_empty());
    let lazy = Abilities { unload: true, ..Abilities::default() };
    let lazy = Standing { abilities: lazy, ..unloaded("comfy", 9_000) };
    assert!(steps(std::slice::from_ref(&lazy), &wanted("comfy", 9_000)).is_empty());
    let unknown = Standing { state: WorkerState::Unknown, ..lazy };
    assert_eq!(steps(&[unknown], &wanted("comfy", 9_000)), ["unload comfy"]);
}

#[test]
fn nothing_is_moved_and_nothing_unclear_believed_before_a_look() {
    let blind = Budget { looked: false, ..budget() };
    let first = |residents: &[Standing], need| {
        plan(residents, &wanted("generator", need), &blind, Urgency::Usual).unwrap().steps
    };
    assert_eq!(first(&[generator(), scorer()], 20_070), [Step::Probe]);
    assert_eq!(first(&[generator(), scorer()], 9_000), []);
    let unknown = Standing { state: WorkerState::Unknown, ..scorer() };
    assert_eq!(first(&[generator(), unknown], 9_000), [Step::Probe]);
}

#[test]
fn in_an_emergency_all_but_the_wanted_and_the_pinned_go() {
    let pinned = Standing { residency: Residency::Pinned, ..at_rest("pinned", 300) };
    let foreign = Budget { foreign: MiB(9_000), ..budget() };
    let residents = [generator(), scorer(), at_rest("enhancer", 2_000), pinned];
    let go = |urgency| plan(&residents, &wanted("generator", 18_000), &foreign, urgency);
    assert!(matches!(go(Urgency::Usual), Err(Unplaceable::NoRoom(_))));
    let all = go(Urgency::Emergency).unwrap();
    let verbs: Vec<String> = all.steps.iter().map(Step::to_string).collect();
    assert_eq!(verbs, ["unload scorer", "unload enhancer", "probe"]);
    assert_eq!(all.evicted.len(), 2);
    // And nothing is left to try after that.
    let alone = [generator(), Standing { residency: Residency::Pinned, ..at_rest("pinned", 300) }];
    assert!(plan(&alone, &wanted("generator", 18_000), &foreign, Urgency::Emergency).is_err());
}

#[test]
fn document_003_is_served() {
    // sdxl and chat are resident and wan is wanted: the old manager refuses (workers.md section 4).
    let card = Budget { limit: MiB(48 * 1_024), margin: MiB(2_048), foreign: MiB::ZERO, looked: true };
    let sdxl = Standing { residency: Residency::Preferred, ..at_rest("sdxl", 10_240) };
    let residents = [sdxl, at_rest("chat", 15_360), unloaded("wan", 30_720)];
    let plan = plan(&residents, &wanted("wan", 30_720), &card, Urgency::Usual).unwrap();
    let verbs: Vec<String> = plan.steps.iter().map(Step::to_string).collect();
    assert_eq!(verbs, ["unload chat", "load wan"]);
}

fn any_state() -> impl Strategy<Value = WorkerState> {
    prop_oneof![
        4 => Just(WorkerState::Resident),
        2 => Just(WorkerState::Unloaded),
        1 => Just(WorkerState::Stopped),
        1 => Just(WorkerState::Unknown),
        1 => Just(WorkerState::Failed { since: UnixTime::EPOCH }),
    ]
}

fn any_standing() -> impl Strategy<Value = Standing> {
    let class = prop_oneof![
        3 => Just(Residency::OnDemand),
        1 => Just(Residency::Preferred),
        1 => Just(Residency::Pinned)
    ];
    let amounts = (0..12_000_u64, 0..6_000_u64, 0..600_u64);
    let flags = (any::<[bool; 5]>(), proptest::bool::weighted(0.1), 0..4_u8, 0..4_u8);
    (class, any_state(), amounts, flags, 0..5_u64, 0..5_u64).prop_map(
        |(residency, state, (resident, cached, context), (able, in_use, out, into), due, idle)| {
            let [unload, load, cleanup, process, canary] = able;
            let context = context.min(resident);
            let held = match state {
                WorkerState::Unloaded => context,
                WorkerState::Stopped => 0,
                _ => resident + cached,
            };
            Standing {
                worker: "".into(),
                residency,
                state,
                abilities: Abilities { unload, load, cleanup, process, canary },
                held: MiB(held),
                resident: MiB(resident),
                context: MiB(context),
                in_use,
                due_in: if due == 0 { Duration::MAX } else { Duration::from_secs(due) },
                idle: Duration::from_secs(idle),
                tried: Tried { out, into },
            }
        },
    )
}

prop_compose! {
    fn any_case()(
        mut residents in proptest::collection::vec(any_standing(), 1..6),
        extra in 0..14_000_u64,
        margin in 0..1_024_u64,
        foreign in prop_oneof![Just(0), 0..8_000_u64],
        looked in proptest::bool::weighted(0.9),
        emergency in any::<bool>(),
        below in prop_oneof![Just(None), Just(Some(Residency::Preferred)), Just(Some(Residency::OnDemand))],
    ) -> (Vec<Standing>, Wanted, Budget, Urgency) {
        for (number, standing) in residents.iter_mut().enumerate() {
            standing.worker = format!("w{number}").as_str().into();
        }
        residents[0].in_use = false;
        let reach = below.map_or(Reach::AllButPinned, Reach::Below);
        let need = MiB(residents[0].resident.0 + extra);
        let wanted = Wanted { worker: residents[0].worker.clone(), need, reach };
        let budget = Budget { limit: MiB(CARD), margin: MiB(margin), foreign: MiB(foreign), looked };
        (residents, wanted, budget, if emergency { Urgency::Emergency } else { Urgency::Usual })
    }
}

/// What each worker holds after the steps, if every verb does what it should.
fn carried_out(residents: &[Standing], steps: &[Step]) -> BTreeMap<WorkerId, MiB> {
    let of = |worker: &WorkerId| residents.iter().find(|s| s.worker == *worker).unwrap();
    let mut held: BTreeMap<_, _> = residents.iter().map(|s| (s.worker.clone(), s.held)).collect();
    for step in steps {
        let Some(worker) = step.worker() else { continue };
        let now = held[worker];
        let after = match step {
            Step::Cleanup(_) => now.min(of(worker).resident),
            Step::Unload(_) => now.min(of(worker).context),
            Step::Stop(_) => MiB::ZERO,
            Step::Load(_) | Step::Start(_) => of(worker).resident,
            Step::Probe | Step::Canary(_) => now,
        };
        held.insert(worker.clone(), after);
    }
    held
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_makes_room_and_takes_no_more_than_it_may((residents, wanted, budget, urgency) in any_case()) {
        let Ok(plan) = plan(&residents, &wanted, &budget, urgency) else { return Ok(()) };
        let of = |worker: &WorkerId| residents.iter().find(|s| s.worker == *worker).unwrap();
        if plan.steps == [Step::Probe] && !budget.looked {
            prop_assert!(plan.evicted.is_empty());
            return Ok(());
        }
        prop_assert!(budget.looked || plan.is_nothing());
        prop_assert!(budget.looked || !residents.iter().any(Standing::is_unclear));
        // Who leaves is listed, and is neither wanted, pinned nor at work.
        for step in &plan.steps {
            let Some(worker) = step.worker() else { continue };
            let gives_way = matches!(step, Step::Unload(_) | Step::Stop(_));
            if *worker != wanted.worker {
                prop_assert!(!of(worker).in_use, "{step}");
                prop_assert!(gives_way || matches!(step, Step::Cleanup(_)), "{step}");
            }
            if gives_way && *worker != wanted.worker {
                prop_assert!(plan.evicted.contains(worker));
                prop_assert!(of(worker).residency != Residency::Pinned);
                if let Reach::Below(class) = wanted.reach {
                    let failed = matches!(of(worker).state, WorkerState::Failed { .. });
                    prop_assert!(of(worker).residency < class || failed);
                }
            }
        }
        prop_assert!(!plan.evicted.contains(&wanted.worker));
        // Before anything comes in there is room for the work.
        let end = carried_out(&residents, &plan.steps);
        let others: MiB = end.iter().filter(|(w, _)| **w != wanted.worker).map(|(_, held)| *held).sum();
        let sum = others.0 + budget.foreign.0 + budget.margin.0 + wanted.need.0;
        let brings = plan.steps.iter().any(|s| matches!(s, Step::Load(_) | Step::Start(_)));
        if plan.steps.last() != Some(&Step::Probe) {
            prop_assert!(sum <= CARD, "{sum}");
        } else {
            prop_assert!(!brings && urgency == Urgency::Emergency);
        }
        let comes = plan.steps.iter().position(|s| matches!(s, Step::Load(_) | Step::Start(_)));
        let leaves = plan.steps.iter().rposition(|s| s.worker().is_some_and(|w| *w != wanted.worker));
        if let (Some(comes), Some(leaves)) = (comes, leaves) {
            prop_assert!(leaves < comes);
        }
        // Nobody leaves for nothing.
        if urgency == Urgency::Usual {
            for worker in &plan.evicted {
                let without: Vec<Step> =
                    plan.steps.iter().filter(|s| s.worker() != Some(worker)).cloned().collect();
                let end = carried_out(&residents, &without);
                let others: MiB = end.iter().filter(|(w, _)| **w != wanted.worker).map(|(_, h)| *h).sum();
                prop_assert!(others.0 + budget.foreign.0 + budget.margin.0 + wanted.need.0 > CARD, "{worker}");
            }
        }
    }

    #[test]
    fn it_refuses_only_what_cannot_be((residents, wanted, budget, urgency) in any_case()) {
        let refused = plan(&residents, &wanted, &budget, urgency);
        let Err(Unplaceable::NoRoom(sums)) = refused else { return Ok(()) };
        // Everybody who may leave, as far as possible.
        let least = |s: &Standing| {
            let may = s.residency != Residency::Pinned && !s.in_use && match wanted.reach {
                Reach::AllButPinned => true,
                Reach::Below(class) => s.residency < class || matches!(s.state, WorkerState::Failed { .. }),
            };
            let caches = s.abilities.cleanup && !s.in_use && s.state == WorkerState::Resident;
            if may && s.abilities.process && s.tried.out <= 2 {
                MiB::ZERO
            } else if may && s.abilities.unload && s.tried.out <= 1 {
                s.held.min(s.context)
            } else if caches {
                s.held.min(s.resident)
            } else {
                s.held
            }
        };
        let others: MiB = residents[1..].iter().map(least).sum();
        prop_assert!(others.0 + budget.foreign.0 + budget.margin.0 + wanted.need.0 > CARD, "{sums}");
    }
}
