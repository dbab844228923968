use super::*;
use crate::config::{Inputs, Loaded, Settings, load};

fn loaded(file: &str) -> Result<Loaded, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, file).unwrap();
    let inputs = Inputs { file: Some(path), ..Inputs::default() };
    load(&inputs).map_err(|found| found.errors.iter().map(ToString::to_string).collect())
}

fn settings(file: &str) -> Settings {
    loaded(file).unwrap_or_else(|found| panic!("{found:#?}")).settings
}

fn problems(file: &str) -> Vec<String> {
    loaded(file).err().unwrap_or_default()
}

const GENERATOR: &str =
    "[[workers]]\nname = \"gen\"\nrole = \"generator\"\nurl = \"http://127.0.0.1:8095\"\n";
const SCORER: &str = "[[workers]]\nname = \"judge\"\nrole = \"scorer\"\nurl = \"http://127.0.0.1:10006\"\n";

/// The two of source document 000 on one card.
fn reference(gpu: &str, generator: &str, scorer: &str) -> String {
    format!(
        "[[gpus]]\nlimit = \"24576MiB\"\n{gpu}\n{GENERATOR}resident = \"400MiB\"\npeak = \"20070MiB\"\n{generator}\n\
         {SCORER}resident = \"4813MiB\"\npeak = \"4813MiB\"\n{scorer}\n"
    )
}

#[test]
fn by_default_nothing_is_ever_moved() {
    let default = settings("");
    assert_eq!(default.gpus.len(), 1);
    assert!(default.workers().all(|worker| !worker.may_move()));
    let named = settings(&format!("{GENERATOR}{SCORER}"));
    assert!(named.workers().all(|worker| !worker.may_move() && worker.process.is_none()));
}

#[test]
fn a_worker_that_says_what_it_holds_is_asked_for_its_verbs() {
    let asked = settings(&reference("", "", "memory = \"none\""));
    let memory: Vec<_> = asked.workers().map(|worker| worker.memory.clone()).collect();
    assert_eq!(memory, [None, Some(MemoryDialect::Nothing)]);
}

#[test]
fn the_reference_card_is_read() {
    let settings = settings(&reference(
        "handoff = \"per-task\"",
        "memory = \"process\"\n[workers.process]\ncommand = [\"serve\"]\nenv = { HF_TOKEN = \"hf_secret\" }",
        "memory = \"three-gen\"\nresidency = \"preferred\"",
    ));
    let gpu = &settings.gpus[0];
    assert_eq!(gpu.sharing.limit, Some(MiB(24_576)));
    assert_eq!((gpu.sharing.margin, gpu.sharing.mode), (MiB(512), Mode::PerTask));
    let here = settings.workers_on(gpu);
    assert_eq!(here.len(), 2);
    assert_eq!(here[0].rows(None)[0].peak, MiB(20_070));
    let process = here[0].process.as_ref().unwrap();
    assert_eq!((&process.command[..], process.restarts_per_hour), (&["serve".to_owned()][..], 5));
    assert_eq!(process.env["HF_TOKEN"], "hf_secret");
    assert!(!format!("{process:?}").contains("hf_secret"));
    assert_eq!((here[1].residency, &here[1].memory), (Residency::Preferred, &Some(MemoryDialect::ThreeGen)));
}

#[test]
fn values_of_a_process_s_environment_are_not_shown() {
    let file =
        reference("", "[workers.process]\ncommand = [\"serve\"]\nenv = { HF_TOKEN = \"hf_secret\" }", "");
    let resolved = loaded(&file).unwrap().resolved;
    let line = resolved.iter().find(|line| line.key == "workers.0.process.env.HF_TOKEN").unwrap();
    assert_eq!(line.value, "(not shown)");
    let found = problems(&file.replace("\"hf_secret\"", "17"));
    assert!(found[0].starts_with("workers.0.process.env.HF_TOKEN") && !found[0].contains("17"), "{found:?}");
}

#[test]
fn pinned_workers_that_never_fit_are_refused_with_the_arithmetic() {
    let found = problems(&reference("", "", "residency = \"pinned\""));
    assert_eq!(
        found,
        ["gpus (c): auto: it never has room beside the pinned workers: gen needs 20070 MiB; \
             24576 MiB - 512 MiB margin - 4813 MiB judge = 19251 MiB"]
        .map(|line| line.replace("(c)", &found[0][5..found[0].find(')').unwrap() + 1]))
    );
    // A larger card does, and a smaller way to run it.
    assert!(problems(&reference("", "", "residency = \"pinned\"").replace("24576MiB", "26GiB")).is_empty());
    let variants = "[workers.process]\n[[workers.variants]]\ncommand = [\"full\"]\n\
                    [[workers.variants]]\ncommand = [\"half\"]\npeak = \"18GiB\"";
    assert!(problems(&reference("", variants, "residency = \"pinned\"")).is_empty());
}

#[test]
fn a_size_without_a_clear_unit_is_refused() {
    for (gpu, generator) in [
        ("margin = 512", ""),
        ("margin = \"512\"", ""),
        ("margin = \"1GB\"", ""),
        ("margin = \"-1MiB\"", ""),
        ("", "[[workers.stages]]\nname = \"image\"\npeak = 10"),
    ] {
        let file = reference(gpu, generator, "").replace("peak = \"20070MiB\"\n", "");
        assert_eq!(problems(&file).len(), 1, "{gpu} {generator}: {:?}", problems(&file));
    }
    for size in ["4813", "\"4813\"", "\"4.7GB\"", "\"0MiB\"", "\"5TiB\"", "\"5000GiB\"", "true"] {
        let file = format!("{GENERATOR}resident = {size}\n");
        let found = problems(&file);
        assert!(found.len() == 1 && found[0].starts_with("workers.0.resident"), "{size}: {found:?}");
    }
}

#[test]
fn mistakes_of_cards_and_workers_are_reported_together() {
    let file = format!(
        "[[gpus]]\nuuid = \"GPU-1\"\nprobe = \"ledger\"\nspeed = 3\n[[gpus]]\nuuid = \"GPU-1\"\n\
         {GENERATOR}gpu = \"GPU-2\"\nmemory = \"psychic\"\n{SCORER}dialect = \"form\"\nstages = [{{ name = \"x\" }}]\n\
         [workers.process]\ncommand = [\"\"]\nstop_timeout = \"5\"\n"
    );
    let found = problems(&file);
    for key in [
        "gpus.0.limit",
        "gpus.0.speed",
        "workers.0.memory",
        "workers.1.dialect",
        "workers.1.stages.0.peak",
        "workers.1.process.command",
        "workers.1.process.stop_timeout",
    ] {
        assert!(found.iter().any(|line| line.starts_with(key)), "{key} in {found:#?}");
    }
}

#[test]
fn what_must_agree() {
    let two = "[[gpus]]\nuuid = \"GPU-1\"\n[[gpus]]\nuuid = \"GPU-2\"\n";
    let on = |name: &str, role: &str, port: u16, more: &str| {
        format!(
            "[[workers]]\nname = \"{name}\"\nrole = \"{role}\"\nurl = \"http://127.0.0.1:{port}\"\n{more}\n"
        )
    };
    let cases = [
        (format!("{GENERATOR}{}", on("gen", "scorer", 1, "")), "two workers are called gen"),
        (
            format!("{GENERATOR}{}", on("judge", "scorer", 8095, "")),
            "are both said to be at http://127.0.0.1:8095",
        ),
        (format!("{two}{GENERATOR}"), "there are several cards"),
        (format!("{two}{GENERATOR}gpu = \"GPU-3\"\n"), "GPU-3 is not among the cards"),
        (format!("{two}[[gpus]]\nuuid = \"GPU-2\"\n{GENERATOR}gpu = \"GPU-1\"\n"), "GPU-2 is named twice"),
        (format!("{two}[[gpus]]\n{GENERATOR}gpu = \"GPU-1\"\n"), "name each by its UUID"),
        (format!("gpus = []\n{GENERATOR}"), "at least one card"),
        (format!("{GENERATOR}{SCORER}{}", on("other", "scorer", 7, "")), "one scorer a card"),
        (format!("{GENERATOR}memory = \"process\"\n"), "needs its command"),
        (
            format!("{GENERATOR}peak = \"2GiB\"\nstages = [{{ name = \"a\", peak = \"1GiB\" }}]\n"),
            "either peak or stages",
        ),
        (
            format!(
                "{GENERATOR}stages = [{{ name = \"a\", peak = \"1GiB\" }}, {{ name = \"a\", peak = \"2GiB\" }}]\n"
            ),
            "two stages are called a",
        ),
        (
            GENERATOR.replace("127.0.0.1", "10.0.0.7") + "[workers.process]\ncommand = [\"serve\"]\n",
            "on another machine",
        ),
        (
            "[[workers]]\nname = \"g\"\nrole = \"generator\"\nurl = \"devnet\"\nmemory = \"auto\"\n".into(),
            "hold no memory of a card",
        ),
        (
            format!("{GENERATOR}[[workers]]\nname = \"e\"\nrole = \"enhancer\"\nurl = \"devnet\"\n"),
            "no embedded enhancer",
        ),
        (
            reference("", "[workers.process]\ncommand = [\"serve\"]\nmemory_fraction = 0.5", ""),
            "gen needs 20070 MiB and is held to 0.5 of 24576 MiB = 12288 MiB",
        ),
        (GENERATOR.replace("\"gen\"", "\"../gen\""), "1 to 64 letters"),
    ];
    for (file, problem) in cases {
        let found = problems(&file);
        assert!(found.len() == 1 && found[0].contains(problem), "{problem}: {found:#?}");
    }
}

#[test]
fn several_cards_have_a_generator_each_and_may_share_a_scorer() {
    let file = format!(
        "[[gpus]]\nuuid = \"GPU-1\"\n[[gpus]]\nuuid = \"GPU-2\"\n\
         {GENERATOR}gpu = \"GPU-1\"\n{}gpu = \"GPU-2\"\n{SCORER}gpu = \"GPU-2\"\n\
         [[workers]]\nname = \"muse\"\nrole = \"enhancer\"\nurl = \"http://127.0.0.1:7861\"\ngpu = \"GPU-1\"\n",
        GENERATOR.replace("\"gen\"", "\"gen-2\"").replace("8095", "8096")
    );
    let settings = settings(&file);
    assert_eq!(settings.workers_as(Tenant::Generator).count(), 2);
    for gpu in &settings.gpus {
        assert_eq!(settings.scorer_for(gpu).unwrap().name, "judge");
        let muse = settings.enhancer_for(gpu).unwrap();
        assert_eq!((muse.limits.total, muse.limits.body), (S(3), ByteSize(64 << 10)));
    }
    assert_eq!(settings.workers_on(&settings.gpus[0]).len(), 2);
}
