//! The coordinator as agents and operators meet it: its own process, real TLS, the real agent's client.

mod support;

use serde_json::Value;
use wattle_agent::coordinator::ConnectionError;
use wattle_api::agent::{ErrorCode, ToAgent, ToCoordinator};
use wattle_api::topology::EventId;

use crate::support::{Agent, Coordinator, command, receive};

#[tokio::test]
async fn a_second_join_reaches_the_first_node_as_a_newer_peer_set() {
    let coordinator = Coordinator::start().await;
    let mut first = Agent::new(1).join(&coordinator.token(&[])).await.unwrap();
    assert_eq!(first.set.peers.len(), 1);
    let second = Agent::new(2)
        .join(&coordinator.token(&["--name", "db-3"]))
        .await
        .unwrap();
    assert_eq!(second.set.peers.len(), 2);
    first.until_peers(2).await;
    let name = &first.set.peers[&second.agent.id()].grant.grant().name;
    assert_eq!(name.as_str(), "db-3", "the token's name wins");
    let nodes = coordinator.get("/api/v1/nodes").await;
    let connected = nodes["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|n| n["connected"] == true);
    assert_eq!(connected.count(), 2);
}

#[tokio::test]
async fn above_32_members_all_are_told_the_same_few_neighbours() {
    let coordinator = Coordinator::start().await;
    let mut first = Agent::new(1).join(&coordinator.token(&[])).await.unwrap();
    for seed in 2..=32 {
        let token = coordinator.token(&[]);
        Agent::new(seed).join(&token).await.unwrap();
    }
    first.until_peers(32).await;
    let mut peers = first.set.peers.values();
    assert!(peers.all(|peer| peer.neighbours.is_none()));
    let last = Agent::new(33).join(&coordinator.token(&[])).await.unwrap();
    first.until_peers(33).await;
    assert_eq!(first.set, last.set);
    let named = |node| first.set.peers[node].neighbours.as_ref().unwrap();
    for node in first.set.peers.keys() {
        assert!((4..=9).contains(&named(node).len()), "{:?}", named(node));
        assert!(named(node).iter().all(|other| named(other).contains(node)));
    }
}

#[tokio::test]
async fn a_token_is_good_once_in_time_and_for_its_coordinator() {
    let coordinator = Coordinator::start().await;
    let token = coordinator.token(&[]);
    let joined = Agent::new(1).join(&token).await.unwrap();
    let again = Agent::new(1).join(&token).await.unwrap();
    assert_eq!(
        again.set, joined.set,
        "an answer that was lost is given again"
    );
    let used = Agent::new(2).join(&token).await.err().unwrap();
    assert_eq!(used.0, ErrorCode::TokenUsed, "{}", used.1);
    let short = coordinator.token(&["--ttl", "1"]);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let expired = Agent::new(3).join(&short).await.err().unwrap();
    assert_eq!(expired.0, ErrorCode::TokenExpired, "{}", expired.1);
    let mut forged = coordinator.token(&[]);
    forged.secret = wattle_api::token::Secret::new([7; 32]);
    let unknown = Agent::new(4).join(&forged).await.err().unwrap();
    assert_eq!(unknown.0, ErrorCode::TokenUnknown, "{}", unknown.1);
    forged.fingerprint[0] ^= 1;
    let impostor = Agent::new(4).open(&forged).await.err().unwrap();
    assert!(
        matches!(impostor, ConnectionError::Impostor { .. }),
        "{impostor}"
    );
    drop(joined);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_parallel_joins_with_one_token_exactly_one_wins() {
    let coordinator = Coordinator::start().await;
    let token = coordinator.token(&[]);
    let mut joins = tokio::task::JoinSet::new();
    for seed in 1..=64 {
        let token = token.clone();
        joins.spawn(async move { Agent::new(seed).join(&token).await.map(drop) });
    }
    let outcomes = joins.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let lost = |o: &&Result<(), _>| matches!(o, Err(support::Refused(ErrorCode::TokenUsed, _)));
    assert_eq!(outcomes.iter().filter(lost).count(), 63);
    let nodes = coordinator.get("/api/v1/nodes").await;
    assert_eq!(nodes["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_and_leaves_the_token_good() {
    let coordinator = Coordinator::start().await;
    Agent::named(1, "web")
        .join(&coordinator.token(&[]))
        .await
        .unwrap();
    let token = coordinator.token(&[]);
    let refused = Agent::named(2, "web").join(&token).await.err().unwrap();
    assert_eq!(refused.0, ErrorCode::NameTaken);
    assert!(
        refused.1.contains("the name `web` belongs to node"),
        "{}",
        refused.1
    );
    Agent::named(2, "web-2").join(&token).await.unwrap();
}

#[tokio::test]
async fn a_stranger_is_told_that_it_is_no_member() {
    let coordinator = Coordinator::start().await;
    let mut link = Agent::new(9).hello(&coordinator.token(&[]), 3).await;
    link.send(&ToCoordinator::Ack { revision: 3 })
        .await
        .unwrap();
    let ToAgent::Error { code, hint, .. } = receive(&mut link).await else {
        panic!()
    };
    assert_eq!(code, ErrorCode::NotAMember);
    assert!(hint.contains("wattle join"), "{hint}");
}

#[tokio::test]
async fn records_become_events_that_a_stream_shows_and_resumes_after_a_kill() {
    let mut coordinator = Coordinator::start().await;
    let mut a = Agent::new(1).join(&coordinator.token(&[])).await.unwrap();
    let b = Agent::new(2).join(&coordinator.token(&[])).await.unwrap();
    let mut events = coordinator.stream(None).await;
    let (keys, position) = events.snapshot().await;
    assert_eq!((keys.len(), position.as_str()), (2, "1:2"));

    a.report(1, &[b.agent.id()], 900).await;
    let reporting = events.next().await;
    let link = events.next().await;
    assert_eq!(
        (reporting.id.as_deref(), link.id.as_deref()),
        (Some("1:3"), Some("1:4"))
    );
    let value: Value = serde_json::from_str(&link.data).unwrap();
    let key = format!("link:{}>{}/udp4", a.agent.id(), b.agent.id());
    assert_eq!(
        (value["key"].as_str(), value["op"].as_str()),
        (Some(key.as_str()), Some("c"))
    );
    assert_eq!(value["after"]["rtt_us"], 900);

    coordinator.kill();
    coordinator.run().await;
    let mut resumed = coordinator.stream(Some("1:3")).await;
    assert_eq!(
        resumed.next().await,
        link,
        "what was written is there after the kill"
    );
    let token = coordinator.token(&[]);
    let mut again = a.agent.hello(&token, a.set.revision).await;
    let welcome = receive(&mut again).await;
    assert!(
        matches!(welcome, ToAgent::Welcome { revision: 2, .. }),
        "{welcome:?}"
    );
    let stale = a.links(1, &[], 1).bytes().into();
    let newer = a.links(2, &[b.agent.id()], 950).bytes().into();
    again
        .send(&ToCoordinator::Records {
            records: vec![stale, newer],
        })
        .await
        .unwrap();
    let measured = resumed.next().await;
    assert_eq!(
        measured.id.as_deref(),
        Some("2:5"),
        "a new term, the next number"
    );
    let value: Value = serde_json::from_str(&measured.data).unwrap();
    assert_eq!(value["before"]["rtt_us"], 900);
    assert_eq!(value["after"]["rtt_us"], 950);
}

#[tokio::test]
async fn a_removed_node_is_told_the_others_get_the_signed_removal_and_it_cannot_return() {
    let coordinator = Coordinator::start().await;
    let mut a = Agent::new(1).join(&coordinator.token(&[])).await.unwrap();
    let mut b = Agent::new(2).join(&coordinator.token(&[])).await.unwrap();
    a.until_peers(2).await;
    assert_eq!(
        coordinator.http("DELETE", "/api/v1/nodes/n2", "").await.0,
        204
    );
    let ToAgent::Records { records } = receive(&mut a.link).await else {
        panic!()
    };
    let removal = wattle_wire::record::Record::parse(&records[0].0).unwrap();
    removal.verify(a.set.network, &a.root).unwrap();
    assert_eq!(removal.origin(), b.agent.id());
    a.until_peers(1).await;
    loop {
        if let ToAgent::Error { code, .. } = receive(&mut b.link).await {
            assert_eq!(code, ErrorCode::Removed);
            break;
        }
    }
    let mut link = b.agent.hello(&coordinator.token(&[]), 2).await;
    link.send(&ToCoordinator::Ack { revision: 2 })
        .await
        .unwrap();
    let ToAgent::Error { code, .. } = receive(&mut link).await else {
        panic!()
    };
    assert_eq!(code, ErrorCode::Removed);
    assert_eq!(
        coordinator.http("DELETE", "/api/v1/nodes/n2", "").await.0,
        404
    );
}

#[tokio::test]
async fn every_event_is_there_once_and_in_order_through_ten_kills() {
    let mut coordinator = Coordinator::start().await;
    let mut a = Agent::new(1).join(&coordinator.token(&[])).await.unwrap();
    let b = Agent::new(2).join(&coordinator.token(&[])).await.unwrap();
    for round in 0..10_u64 {
        for counter in round * 20 + 1..=round * 20 + 20 {
            a.report(counter, &[b.agent.id()], counter).await;
        }
        coordinator.kill();
        coordinator.run().await;
        a.link = a.agent.hello(&coordinator.token(&[]), a.set.revision).await;
    }
    a.report(1_000, &[b.agent.id()], 1_000).await;
    let (mut last, mut rtt) = (0, 0);
    let mut stream = coordinator.stream(Some("1:0")).await;
    while rtt < 1_000 {
        let event = stream.next().await;
        let id: EventId = event.id.unwrap().parse().unwrap();
        assert_eq!(id.seq, last + 1);
        last = id.seq;
        let value: Value = serde_json::from_str(&event.data).unwrap();
        if value["kind"] == "link" {
            let (before, after) = (&value["before"]["rtt_us"], &value["after"]["rtt_us"]);
            assert_eq!(
                before.as_u64().unwrap_or(0),
                rtt,
                "each event begins where the last ended"
            );
            assert!(after.as_u64().unwrap() > rtt);
            rtt = after.as_u64().unwrap();
        }
    }
    let topology = coordinator.get("/api/v1/topology").await;
    assert_eq!(topology["links"][0]["rtt_us"], 1_000);
    assert_eq!(topology["seq"], last);
}

#[tokio::test]
async fn operators_need_the_token_and_get_problems_with_hints() {
    let coordinator = Coordinator::start().await;
    let (status, body) = coordinator
        .http("POST", "/api/v1/tokens", "{\"nam\":\"x\"}")
        .await;
    assert_eq!(status, 422, "{body}");
    assert!(body.contains("unknown field `nam`"), "{body}");
    let (status, body) = coordinator.http("POST", "/api/v1/tokens", "{}").await;
    assert_eq!(status, 201, "{body}");
    let created: Value = serde_json::from_str(&body).unwrap();
    let token = created["token"].as_str().unwrap().parse().unwrap();
    Agent::new(1).join(&token).await.unwrap();
    let listed = coordinator.get("/api/v1/tokens").await;
    assert!(listed["items"][0]["used"]["node"].is_string());
    assert!(
        !listed
            .to_string()
            .contains(created["token"].as_str().unwrap())
    );
    let key = wattle_model::WgKey([9; 32]);
    let leaf = format!(r#"{{"name":"phone","host":"n1","public_key":"{key}"}}"#);
    let (status, body) = coordinator.http("POST", "/api/v1/leaves", &leaf).await;
    assert_eq!(status, 201, "{body}");
    assert!(body.contains("AllowedIPs = 100.72.0.0/16"), "{body}");
    let (status, metrics) = coordinator.http("GET", "/metrics", "").await;
    assert_eq!(status, 200);
    assert!(
        metrics.contains("wattle_coordinator_joins_total 1\n"),
        "{metrics}"
    );
    std::fs::write(coordinator.state().join("admin.token"), "guess").unwrap();
    let (status, body) = coordinator.http("GET", "/api/v1/nodes", "").await;
    assert_eq!(status, 401);
    assert!(body.contains("admin.token"), "{body}");
}

#[tokio::test]
async fn every_refusal_of_the_api_is_a_problem_with_a_hint() {
    let coordinator = Coordinator::start().await;
    let cases = [
        ("GET", "/api/v1/nodes?limit=many", "", 400),
        ("GET", "/api/v1/events/stream?after=yesterday", "", 400),
        ("GET", "/api/v1/events?since=yesterday", "", 400),
        (
            "GET",
            "/api/v1/events?after=1&since=2026-11-22T22:08:00Z",
            "",
            422,
        ),
        ("GET", "/api/v1/nodes/%ff", "", 400),
        ("GET", "/api/v1/nodes/nobody", "", 404),
        ("DELETE", "/api/v1/nodes/nobody", "", 404),
        ("DELETE", "/api/v1/tokens/00", "", 404),
        ("GET", "/api/v1/mirror", "", 404),
        ("GET", "/api/v1/no-such-thing", "", 404),
        ("GET", "/api/v2", "", 404),
        ("GET", "/", "", 404),
        ("PUT", "/api/v1/nodes", "", 405),
        ("POST", "/api/v1/tokens/00", "", 405),
        ("DELETE", "/metrics", "", 405),
        ("POST", "/api/v1/tokens", "", 400),
        ("POST", "/api/v1/tokens", "[", 400),
        ("POST", "/api/v1/tokens", "{\"ttl_s\":0}", 422),
        ("POST", "/api/v1/tokens", "{\"nam\":1}", 422),
        ("POST", "/api/v1/leaves", "{}", 422),
    ];
    for (method, path, body, status) in cases {
        let problem = coordinator.problem(method, path, body).await;
        assert_eq!(problem.status, status, "{method} {path}: {problem:?}");
        let hint = problem.hint.unwrap_or_default();
        assert!(!hint.is_empty(), "{method} {path} has no hint");
        assert!(!problem.detail.is_empty() && problem.kind.starts_with("urn:wattle:problem:"));
    }
}

#[tokio::test]
async fn an_address_plan_that_cannot_work_makes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    for (flag, prefix, words) in [
        (
            "--ipv4",
            "fd00::/64",
            "`ipv4` is an IPv4 prefix, not fd00::/64",
        ),
        (
            "--ipv6",
            "10.0.0.0/16",
            "`ipv6` is an IPv6 prefix, not 10.0.0.0/16",
        ),
        ("--ipv4", "10.0.0.0/32", "too few addresses"),
        ("--ipv4", "127.0.0.0/8", "no node can have"),
    ] {
        let mut init = command();
        init.args(["init", "--network", "lab", flag, prefix, "--state"]);
        let output = init.arg(&state).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
        assert!(!state.exists());
    }
}

/// Who follows the README without `--advertise` gets an invitation that other hosts can use, or is told.
#[tokio::test]
async fn a_listener_on_every_address_invites_to_an_address_of_the_host() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let mut init = command();
    init.args([
        "init",
        "--network",
        "lab",
        "--listen",
        "0.0.0.0:5741",
        "--state",
    ]);
    let made = init.arg(&state).output().unwrap();
    assert!(made.status.success());
    let mut create = command();
    let made_token = create
        .args(["token", "create", "--state"])
        .arg(&state)
        .output()
        .unwrap();
    assert!(made_token.status.success());
    let token = String::from_utf8(made_token.stdout).unwrap();
    let token: wattle_api::token::JoinToken = token.parse().unwrap();
    let loopback = |address: &String| address.starts_with("127.") || address.starts_with("[::1]");
    let told = String::from_utf8_lossy(&made_token.stderr).contains("public_addresses");
    assert_eq!(token.addresses.iter().all(loopback), told, "{token:?}");
}

#[tokio::test]
async fn a_second_coordinator_and_a_second_init_on_one_state_are_refused() {
    let mut coordinator = Coordinator::start().await;
    let again = coordinator.init();
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("holds a network already"));
    let config = coordinator.state().join("second.toml");
    std::fs::write(&config, "listen = \"127.0.0.1:0\"\n").unwrap();
    let serve = |file: &std::path::Path| {
        let mut serve = command();
        serve
            .arg("serve")
            .arg("--state")
            .arg(coordinator.state())
            .arg("--config")
            .arg(file);
        let output = serve.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let refusal = serve(&config);
    assert!(refusal.contains("another coordinator runs on"), "{refusal}");
    std::fs::write(&config, "lisen = 1\n").unwrap();
    let refusal = serve(&config);
    assert!(
        refusal.contains("second.toml:1:1: unknown field `lisen`"),
        "{refusal}"
    );
    let log = coordinator.terminate();
    assert!(log.contains("Coordinator has stopped"), "{log}");
}

#[tokio::test]
async fn the_past_is_served_page_by_page_after_an_event_or_a_time() {
    let coordinator = Coordinator::start().await;
    let mut a = Agent::new(1).join(&coordinator.token(&[])).await.unwrap();
    let b = Agent::new(2).join(&coordinator.token(&[])).await.unwrap();
    let mut events = coordinator.stream(None).await;
    events.snapshot().await;
    for counter in 1..=3 {
        a.report(counter, &[b.agent.id()], 900 + counter).await;
    }
    // Two members, a node that reports, its link, two measurements.
    for _ in 3..=6 {
        events.next().await;
    }
    let seqs = |page: &Value| -> Vec<u64> {
        let items = page["items"].as_array().unwrap();
        items
            .iter()
            .map(|event| event["source"]["seq"].as_u64().unwrap())
            .collect()
    };
    let mut path = "/api/v1/events?limit=4".to_owned();
    let mut told = Vec::new();
    let all = loop {
        let page = coordinator.get(&path).await;
        told.push(seqs(&page));
        match page["next"].as_str() {
            Some(after) => path = format!("/api/v1/events?limit=4&after={after}"),
            None => break coordinator.get("/api/v1/events").await,
        }
    };
    assert_eq!(told, [vec![1, 2, 3, 4], vec![5, 6]]);
    assert_eq!(
        (seqs(&all), &all["next"]),
        ((1..=6).collect(), &Value::Null)
    );
    let since = |event: usize| {
        format!(
            "/api/v1/events?since={}",
            all["items"][event]["ts"].as_str().unwrap()
        )
    };
    let later = coordinator.get(&since(1)).await;
    let of_later_time = all["items"].as_array().unwrap().iter();
    let of_later_time =
        of_later_time.filter(|event| event["ts"].as_str() > all["items"][1]["ts"].as_str());
    let expected: Vec<u64> = of_later_time
        .map(|event| event["source"]["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs(&later), expected);
    assert!(seqs(&coordinator.get(&since(5)).await).is_empty());
    let before = coordinator
        .get("/api/v1/events?since=2001-01-01T00:00:00Z")
        .await;
    assert_eq!(seqs(&before).len(), 6);
}
