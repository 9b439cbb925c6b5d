//! `wattle tokens`: invitations to the network.

use wattle_api::Timestamp;
use wattle_api::rest::{TokenCreated, TokenRequest};
use wattle_api::token::TokenRecord;

use crate::args::TokensVerb;
use crate::coordinator::{Coordinator, block_on};
use crate::failure::Outcome;
use crate::human::{UNKNOWN, list, or_unknown};
use crate::output::{Output, wall_clock};
use crate::table::{Columns, Side};

const HEADINGS: [(&str, Side); 7] = [
    ("TOKEN", Side::Left),
    ("STATE", Side::Left),
    ("NAME", Side::Left),
    ("PREFIXES", Side::Left),
    ("TAGS", Side::Left),
    ("EXPIRES", Side::Left),
    ("USED BY", Side::Left),
];

/// Makes or lists tokens.
pub(crate) fn run(verb: TokensVerb, output: &mut Output) -> Outcome {
    match verb {
        TokensVerb::Create {
            name,
            announce,
            tag,
            site,
            ttl,
            coordinator,
        } => {
            let request = TokenRequest {
                name,
                prefixes: announce,
                tags: tag,
                site,
                ttl_s: ttl,
            };
            let created: TokenCreated = block_on(async {
                Coordinator::connect(&coordinator)
                    .await?
                    .post("/tokens", &request)
                    .await
            })?;
            output.note(&format!("good once, until {}", created.record.expires_at));
            output.answer("token", &created, |created| {
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
            output.answer("tokens", &tokens, |tokens| table(tokens, now))
        }
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
    }
}
