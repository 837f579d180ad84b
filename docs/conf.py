"Sphinx's configuration. `make_site.py` writes the sources and fills SITE before Sphinx reads this."
import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Sphinx runs this file by itself: what make_site.py found out lies in the module of this name.
SITE = sys.modules['conf'].SITE if 'conf' in sys.modules and hasattr(sys.modules['conf'], 'SITE') else {}

_settings = ConfigParser(delimiters=['='])
_settings.read(HERE.parent/'settings.ini', encoding='utf8')
_settings = _settings['DEFAULT']

project, author, version = _settings['title'], _settings['author'], _settings['version']
copyright, language = _settings['copyright'], 'en'
extensions = ['myst_parser', 'sphinx_copybutton', 'hooks']

# Where this changes, every page is written anew: titles and names stand on others' pages, too.
site_state = SITE.get('state', '')

# Words. What looks like HTML in a notebook is text.
myst_enable_extensions = ['dollarmath', 'colon_fence']
myst_disable_syntax = ['html_block', 'html_inline']
myst_heading_anchors = 4
myst_dmath_double_inline = True
suppress_warnings = ['toc.multiple_toc_parents', 'myst.xref_ambiguous', 'misc.highlighting_failure']
smartquotes = False

# Names
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = 'hide'
python_maximum_signature_line_length = 88
html_domain_indices = False
html_use_index = False

# Formulas: by node while the site is built, or else in the page (hooks.py); the files are KaTeX's own either way.
html_math_renderer = 'katex'

# Looks
html_theme, html_title, html_favicon = 'furo', project, str(HERE/'static'/'favicon.svg')
html_static_path = [str(HERE/'static')] + ([f'{SITE["work"]}/static'] if 'work' in SITE else [])
html_extra_path = [f'{SITE["work"]}/extra'] if 'work' in SITE else []
html_css_files = ['katex/katex.min.css', 'site.css']
html_js_files = [('site.js', {'defer': 'defer'})]
html_copy_source = html_show_sourcelink = html_show_sphinx = html_show_search_summary = False
templates_path = [str(HERE/'templates')]
pygments_style, pygments_dark_style = 'a11y-high-contrast-light', 'a11y-high-contrast-dark'
html_theme_options = {
    'navigation_with_keys': False, 'top_of_page_buttons': [],
    'light_css_variables': {'color-brand-primary': '#0b5c94', 'color-brand-content': '#0b5c94',
                            'color-api-name': '#0b5c94', 'color-api-pre-name': '#0b5c94',
                            'font-stack': 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif'},
    'dark_css_variables': {'color-brand-primary': '#7db7ea', 'color-brand-content': '#7db7ea',
                           'color-api-name': '#7db7ea', 'color-api-pre-name': '#7db7ea',
                           # figures are drawn for white paper
                           'figure-filter': 'brightness(.85)', 'chart-filter': 'invert(.92) hue-rotate(180deg)'},
}
copybutton_selector = 'div.highlight pre'
