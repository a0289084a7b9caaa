"""axe-core on a page as it is, in a theme and a width; contrast is computed once for each way in which text is drawn.

Contrast costs axe seconds on a page of thousands of elements, and elements of equal styles inside equal ancestors have
the same. What does not depend on colours is checked in light only.
"""

import importlib.resources

from playwright.sync_api import Page

AXE = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
DRAWN = (
    *("color", "backgroundColor", "backgroundImage", "fontSize", "fontWeight", "opacity", "display", "position"),
    "textShadow",
)
"""What contrast depends on, of an element and of all around it."""
RUN = """async ([theme, drawn]) => {
    const styles = new Map([[null, '']]);
    const styleOf = (element) => {
        if (!styles.has(element)) {
            const style = getComputedStyle(element);
            const own = drawn.map((name) => style[name]);
            styles.set(element, `${styleOf(element.parentElement)} > ${element.localName} ${own}`);
        }
        return styles.get(element);
    };
    const firsts = new Map();
    for (const element of document.body.querySelectorAll('*')) {
        const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
        if (!hasText && !element.matches('input, select, textarea')) continue;
        const {width, height} = element.getBoundingClientRect();
        const key = `${styleOf(element)} ${element.matches(':disabled')} ${width * height > 0}`;
        if (!firsts.has(key)) firsts.set(key, element);
    }
    const only = (...values) => ({resultTypes: ['violations'], runOnly: {type: 'rule', values}});
    const all = {resultTypes: ['violations'], rules: {'color-contrast': {enabled: false}}};
    const contrast = await axe.run({include: [...firsts.values()]}, only('color-contrast'));
    const others = await axe.run(document, theme === 'light' ? all : only('link-in-text-block'));
    return [...contrast.violations, ...others.violations].map(({id, impact, nodes}) =>
        `${id} (${impact}) ${nodes.slice(0, 3).map((node) => node.html).join(' ')}`);
}"""
WIDTHS = (360, 1440)
THEMES = ("light", "dark")


def find_violations(page: Page) -> list[str]:
    """What axe finds in both themes and widths, and where the page is wider than its window."""
    found = []
    page.evaluate(AXE)
    for theme in THEMES:
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
            found += [f"{page.url} {theme} {width}: {one}" for one in page.evaluate(RUN, [theme, DRAWN])]
            wide = page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                found.append(f"{page.url} {width}: is {wide} wide")
    return found
