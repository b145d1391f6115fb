//! The query of `GET /topics`: which topics are listed, and in which order.

use crate::limits::{ADMIN_TOPICS_DEFAULT, ADMIN_TOPICS_MAX};
use crate::publications::InvalidBody;
use crate::topics::{parameters, unknown_parameter};

/// The order of a list of topics. All but the names are in descending order, and topics with the same figure by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TopicOrder {
    #[default]
    Name,
    Subscribers,
    /// Messages per second.
    Rate,
    /// Bytes of logs and history.
    Bytes,
    /// Deliveries that were dropped.
    Dropped,
}

impl TopicOrder {
    fn named(name: &str) -> Option<TopicOrder> {
        Some(match name {
            "name" => TopicOrder::Name,
            "subscribers" => TopicOrder::Subscribers,
            "rate" => TopicOrder::Rate,
            "bytes" => TopicOrder::Bytes,
            "dropped" => TopicOrder::Dropped,
            _ => return None,
        })
    }
}

/// Which topics are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicQuery {
    pub(crate) prefix: String,
    /// The length of the list at most.
    pub(crate) limit: usize,
    pub(crate) order: TopicOrder,
}

impl TopicQuery {
    /// # Errors
    /// If a parameter is unknown, wrong or given twice.
    pub(crate) fn parse(query: &str) -> Result<TopicQuery, InvalidBody> {
        let (mut prefix, mut limit, mut order) = (None, None, None);
        for (name, value) in parameters(query) {
            match name {
                "prefix" => put("prefix", &mut prefix, value, "must be percent-encoded UTF-8")?,
                "limit" => {
                    let number = value.and_then(|value| value.parse().ok());
                    let number = number.filter(|number| (1..=ADMIN_TOPICS_MAX).contains(number));
                    put(
                        "limit",
                        &mut limit,
                        number,
                        &format!("must be a number from 1 to {ADMIN_TOPICS_MAX}"),
                    )?;
                }
                "sort" => {
                    let named = value.as_deref().and_then(TopicOrder::named);
                    put("sort", &mut order, named, "must be name, subscribers, rate, bytes or dropped")?;
                }
                _ => return Err(unknown_parameter()),
            }
        }
        Ok(TopicQuery {
            prefix: prefix.unwrap_or_default(),
            limit: limit.unwrap_or(ADMIN_TOPICS_DEFAULT),
            order: order.unwrap_or_default(),
        })
    }
}

/// Sets a parameter that was not given before.
fn put<T>(
    name: &'static str,
    slot: &mut Option<T>,
    value: Option<T>,
    expected: &str,
) -> Result<(), InvalidBody> {
    if slot.is_some() {
        return Err(InvalidBody::bad(name, "is given twice"));
    }
    *slot = Some(value.ok_or_else(|| InvalidBody::bad(name, expected.to_owned()))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong_field(query: &str) -> &'static str {
        match TopicQuery::parse(query) {
            Err(InvalidBody::Bad { code: "bad-field", field: Some(field), .. }) => field,
            other => panic!("{query}: {other:?}"),
        }
    }

    #[test]
    fn parameters_are_known_and_given_once() {
        let all = TopicQuery { prefix: String::new(), limit: ADMIN_TOPICS_DEFAULT, order: TopicOrder::Name };
        assert_eq!(TopicQuery::parse("").expect("none"), all);
        let some = TopicQuery { prefix: "a/".to_owned(), limit: 7, order: TopicOrder::Dropped };
        assert_eq!(TopicQuery::parse("limit=7&prefix=a%2F&sort=dropped").expect("all"), some);
        for query in ["limit=0", "limit=10001", "limit=x", "limit", "limit=1&limit=2"] {
            assert_eq!(wrong_field(query), "limit");
        }
        for query in ["sort=size", "sort", "sort=rate&sort=rate"] {
            assert_eq!(wrong_field(query), "sort");
        }
        for query in ["prefix=a&prefix=b", "prefix=%ff"] {
            assert_eq!(wrong_field(query), "prefix");
        }
        assert_eq!(wrong_field("topic=a"), "query");
    }
}
