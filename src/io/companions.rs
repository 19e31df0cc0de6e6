//! The small files beside a model's weights.

/// Files that go along with a model's weights as they are.
pub const COMPANIONS: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    // of models that see
    "preprocessor_config.json",
    "processor_config.json",
];

/// A folder of more chat templates.
pub const MORE_TEMPLATES: &str = "additional_chat_templates";
