"""Facts become words: items, people, reasons and prompts as text, in English and Chinese."""
