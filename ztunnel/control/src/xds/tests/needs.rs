//! What is fetched when it is needed: asked for once, waited for within bounds, given up when unused.
