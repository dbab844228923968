use super::*;

fn hours(hours: u64) -> Duration {
    HOUR * hours as u32
}

fn short() -> Scenario {
    Scenario { warm_up: hours(1), time: hours(6), ..Scenario::default() }
}

fn run(scenario: &Scenario, party: Party) -> Report {
    simulate(scenario, party, &Options::default(), |_| ()).unwrap()
}

#[test]
fn look() {
    for party in [Party::Agent].into_iter().chain(Policy::ALL.map(Party::Reference)) {
        println!("{:#?}", run(&short(), party));
    }
}
