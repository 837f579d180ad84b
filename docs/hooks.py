"What the site does beyond its extensions: links from names to the reference, previous and next, scripts of widgets."
import sys
from html import escape

from docutils import nodes


def site(): return sys.modules['conf'].SITE


def link_names(app, doctree, docname):
    "A public name between backticks leads to its entry in the reference."
    targets = site().get('targets', {})
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().split('(')[0]
        if name not in targets or is_linked(literal): continue
        page, target = targets[name]
        start = '' if page == docname else app.builder.get_relative_uri(docname, page)
        link = nodes.reference('', '', internal=True, refuri=f'{start}#{target}', classes=['name'])
        literal.replace_self(link)
        link += literal


def is_linked(node) -> bool:
    "Whether a node stands in a link, or in a heading."
    while node.parent is not None:
        if isinstance(node, (nodes.reference, nodes.title)): return True
        node = node.parent
    return False


def give_neighbours(app, pagename, templatename, context, doctree):
    "Previous and next along the reading path, and the scripts that widgets need, where there are widgets."
    order = site().get('order', [])
    context['prev'] = context['next'] = None
    if pagename in order:
        k = order.index(pagename)
        for key, at in (('prev', k - 1), ('next', k + 1)):
            if 0 <= at < len(order) and order[at] in app.env.titles:
                title = escape(app.env.titles[order[at]].astext())
                context[key] = {'link': app.builder.get_relative_uri(pagename, order[at]), 'title': title}
    if 'lvr-host' in context.get('body', ''):
        app.add_css_file('widgets.css')
        app.add_js_file('widgets.js', loading_method='defer')


def setup(app):
    app.add_config_value('site_state', '', 'html', types=(str,))
    app.connect('doctree-resolved', link_names)
    app.connect('html-page-context', give_neighbours, priority=400)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
