//! `wattle tokens`: invitations to the network.

use schemars::JsonSchema;
use serde::Serialize;
use wattle_api::Timestamp;
use wattle_api::rest::{Network, TokenCreated, TokenRequest};
use wattle_api::token::{DEFAULT_TTL_S, FOR_THIS_HOST_ONLY, JoinToken, TokenRecord};

use crate::args::{CoordinatorArgs, TokensVerb};
use crate::coordinator::{Coordinator, block_on};
use crate::failure::{Exit, Failure, Outcome};
use crate::human::{UNKNOWN, clean, list, or_unknown};
use crate::output::{Output, wall_clock};
use crate::table::{Columns, Side};
use crate::verb::answers;

const HEADINGS: [(&str, Side); 7] = [
    ("TOKEN", Side::Left),
    ("STATE", Side::Left),
    ("NAME", Side::Left),
    ("PREFIXES", Side::Left),
    ("TAGS", Side::Left),
    ("EXPIRES", Side::Left),
    ("USED BY", Side::Left),
];

/// Makes, lists or withdraws tokens.
pub(crate) fn run(verb: TokensVerb, output: &mut Output) -> Outcome {
    match verb {
        TokensVerb::Create {
            name,
            announce,
            tag,
            site,
            ttl,
            dry_run,
            coordinator,
        } => {
            let request = TokenRequest {
                name,
                prefixes: announce,
                tags: tag,
                site,
                ttl_s: ttl,
            };
            if dry_run {
                return would_create(&request, &coordinator, output);
            }
            let created: TokenCreated = block_on(async {
                Coordinator::connect(&coordinator)
                    .await?
                    .post("/tokens", &request)
                    .await
            })?;
            warn_of_loopback(&created.token, output);
            output.note(&format!("good once, until {}", created.record.expires_at));
            output.answer(answers::TOKEN, &created, |created| {
                format!("wattle join {}", created.token)
            })
        }
        TokensVerb::List { coordinator } => {
            let tokens: Vec<TokenRecord> = block_on(async {
                Coordinator::connect(&coordinator)
                    .await?
                    .list("/tokens")
                    .await
            })?;
            let now = wall_clock();
            output.answer(answers::TOKENS, &tokens, |tokens| table(tokens, now))
        }
        TokensVerb::Revoke {
            id,
            dry_run,
            coordinator,
        } => {
            let revoked = block_on(revoke(&id, dry_run, &coordinator))?;
            output.answer(answers::TOKEN_REVOKED, &revoked, show_revoked)
        }
    }
}

/// An invitation to a loopback address is of no use on the next host.
pub(super) fn warn_of_loopback(token: &str, output: &mut Output) {
    let token = token.parse::<JoinToken>();
    if token.is_ok_and(|token| token.is_for_this_host_only()) {
        output.warn(FOR_THIS_HOST_ONLY);
    }
}

/// Finds out whether the coordinator would take the request from us, which reading its network shows.
fn would_create(
    request: &TokenRequest,
    coordinator: &CoordinatorArgs,
    output: &mut Output,
) -> Outcome {
    let network: Network = block_on(async {
        let mut coordinator = Coordinator::connect(coordinator).await?;
        coordinator.get("/network").await
    })?;
    output.answer(answers::TOKEN_DRY_RUN, request, |request| {
        let name = request.name.as_ref().map(|name| format!(" as {name}"));
        format!(
            "would make a token that lets one host join {}{} within {} s; nothing was changed",
            network.name,
            name.unwrap_or_default(),
            request.ttl_s.unwrap_or(DEFAULT_TTL_S),
        )
    })
}

/// A token that was withdrawn, or would be.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Revoked {
    /// Its id.
    id: String,
    /// Whether nothing was changed, by `--dry-run`.
    dry_run: bool,
}

async fn revoke(id: &str, dry_run: bool, coordinator: &CoordinatorArgs) -> Outcome<Revoked> {
    let mut coordinator = Coordinator::connect(coordinator).await?;
    let tokens: Vec<TokenRecord> = coordinator.list("/tokens").await?;
    let found = find(&tokens, id)?;
    if !dry_run {
        coordinator.delete(&format!("/tokens/{}", found.id)).await?;
    }
    Ok(Revoked {
        id: found.id.clone(),
        dry_run,
    })
}

fn find<'a>(tokens: &'a [TokenRecord], id: &str) -> Outcome<&'a TokenRecord> {
    let what = format!("no open token `{}`", clean(id));
    let Some(found) = tokens.iter().find(|token| token.id == id) else {
        let why = "the coordinator has none of this id";
        return Err(Failure::new(
            Exit::NotFound,
            what,
            why,
            "wattle tokens list",
        ));
    };
    match &found.used {
        None => Ok(found),
        Some(used) => {
            let why = format!("node {} has joined with it", used.node);
            let next = format!("wattle nodes remove {}", used.node);
            Err(Failure::new(Exit::Failure, what, why, next))
        }
    }
}

fn show_revoked(revoked: &Revoked) -> String {
    let Revoked { id, dry_run } = revoked;
    match dry_run {
        true => format!("would withdraw the token {id}; nothing was changed"),
        false => format!("the token {id} is withdrawn: nobody can join with it"),
    }
}

fn table(tokens: &[TokenRecord], now: Timestamp) -> String {
    let mut table = Columns::new(false, &HEADINGS);
    for token in tokens {
        let cells = vec![
            token.id.clone(),
            state(token, now).to_owned(),
            or_unknown(token.scope.name.as_ref(), ToString::to_string),
            list(&token.scope.prefixes),
            list(&token.scope.tags),
            token.expires_at.to_string(),
            token
                .used
                .as_ref()
                .map_or_else(|| UNKNOWN.to_owned(), |used| used.node.to_string()),
        ];
        table.row(cells, None);
    }
    table.finish()
}

fn state(token: &TokenRecord, now: Timestamp) -> &'static str {
    match &token.used {
        Some(_) => "used",
        None if token.expires_at <= now => "expired",
        None => "open",
    }
}

#[cfg(test)]
mod tests {
    use wattle_api::token::{TokenScope, TokenUse};
    use wattle_model::NodeId;

    use super::*;

    #[test]
    fn a_token_is_open_until_it_is_used_or_expires() {
        let at = Timestamp::from_millis;
        let open = TokenRecord {
            id: "00ff".into(),
            scope: TokenScope::default(),
            created_at: at(0),
            expires_at: at(600_000),
            used: None,
        };
        assert_eq!(state(&open, at(599_999)), "open");
        assert_eq!(state(&open, at(600_000)), "expired");
        let used = TokenRecord {
            used: Some(TokenUse {
                at: at(1),
                node: NodeId(1),
            }),
            ..open
        };
        assert_eq!(state(&used, at(700_000)), "used");
        let tokens = [used];
        let used = find(&tokens, "00ff").unwrap_err();
        assert_eq!(used.next, "wattle nodes remove 0000000000000001");
        assert_eq!(find(&tokens, "00").unwrap_err().exit, Exit::NotFound);
    }
}
