//! The contract: the copy in the repository is the one that is served.

use crate::support::{Directory, Host, repository};

#[test]
fn the_contract_is_served_to_anyone_and_its_copy_is_current() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);

    let served = host.get("/api/openapi.json");

    assert_eq!((served.status, served.headers["content-type"].split(';').next()), (200, Some("application/json")));
    assert_eq!(served.json()["openapi"], "3.1.0");
    let copy = std::fs::read_to_string(repository().join("docs/openapi.json")).unwrap_or_default();
    // Written here, so that only a look at the difference is left to do.
    if copy != served.body {
        let current = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("openapi.json");
        std::fs::write(&current, &served.body).unwrap();
        panic!("docs/openapi.json is not current: compare it with {}, and copy that over it", current.display());
    }
}

#[test]
fn every_problem_has_a_line_that_says_what_to_do() {
    let page = std::fs::read_to_string(repository().join("docs/problems.md")).unwrap();

    for (status, kind) in waybill::domain::problem::Problem::KINDS {
        let name = kind.strip_prefix("urn:problem-type:waybill:").unwrap();
        assert!(page.contains(&format!("| `{name}` | {status} |")), "{kind}");
    }
}
