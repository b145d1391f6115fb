//! Filters of the subscriptions of sessions: set when they subscribe, and charged.

use std::sync::Arc;

use echoring_topics::{TagFilter, TopicId};

use super::Broadcast;
use super::centrifuge::centrifuge;
use super::filters::bytes_of;
use crate::limits::CENTRIFUGE_FILTERS_UNUSED_MAX;
use crate::peer::ConnectionContext;

impl Broadcast {
    /// Sets or removes the filter of a subscription that a session is about to make. False if there is no memory for it. A subscription
    /// that there is keeps its own.
    pub(super) fn set_filter(
        &mut self,
        link: &mut ConnectionContext<'_>,
        name: &str,
        filter: Option<TagFilter>,
    ) -> bool {
        let Broadcast { fan_out, .. } = self;
        let Some(session) = link.peer.session_mut() else { return true };
        let names: Vec<TopicId> = session.subscriptions.iter().map(|own| own.topic).collect();
        let is_subscribed = |name: &str| names.iter().any(|topic| fan_out.name(*topic) == name);
        let Some(own) = session.centrifuge_mut() else { return true };
        if filter.is_none() && own.filters.is_empty() || is_subscribed(name) {
            return true;
        }
        let before = own.filters.charged_bytes();
        let has_many = own.filters.iter().len() >= names.len() + CENTRIFUGE_FILTERS_UNUSED_MAX;
        own.filters.retain(|own| own != name && (!has_many || is_subscribed(own)));
        let freed = before - own.filters.charged_bytes();
        link.pool().discharge(freed);
        let Some(filter) = filter else { return true };
        if !link.pool().charge(bytes_of(name, &filter)) {
            return false;
        }
        if let Some(own) = centrifuge(link) {
            own.filters.add(name, filter);
        }
        true
    }

    /// The filter of a subscription of a session.
    pub(super) fn filter(&self, link: &ConnectionContext<'_>, topic: TopicId) -> Option<Arc<TagFilter>> {
        let filters = &link.peer.session()?.centrifuge()?.filters;
        if filters.is_empty() { None } else { filters.get(self.fan_out.name(topic)).cloned() }
    }
}
