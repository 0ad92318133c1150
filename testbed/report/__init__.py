"""From raw events to numbers, tables, plots and pages. Nothing here touches hardware."""
