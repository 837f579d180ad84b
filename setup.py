"Packaging: everything it knows is read from settings.ini, and the long description from README.md."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here / 'settings.ini', encoding='utf8')
cfg = config['DEFAULT']

# Extras by what brings them in; `all` of them, and what developers need besides.
extras = {name: cfg[f'{name}_requirements'].split() for name in ('notebook', 'authors', 'video', 'percepts')}
extras['all'] = sorted(set(sum(extras.values(), [])))
extras['dev'] = extras['all'] + cfg['dev_requirements'].split()

statuses = 'Planning', 'Pre-Alpha', 'Alpha', 'Beta', 'Production/Stable', 'Mature', 'Inactive'
status = int(cfg['status'])
classifiers = [f'Development Status :: {status} - {statuses[status - 1]}',
               f'Intended Audience :: {cfg["audience"]}',
               f'Natural Language :: {cfg["language"]}',
               *(f'Operating System :: {system}' for system in cfg['systems'].split()),
               'Programming Language :: Python :: 3',
               *(f'Programming Language :: Python :: {version}' for version in cfg['python_versions'].split()),
               f'Topic :: {cfg["topic"]}']


def description():
    "README.md as a package index can show it: without pictures and links that lie beside it in the repository."
    path = here / 'README.md'
    text = path.read_text(encoding='utf8') if path.exists() else ''
    beside = r'\((?!\w+:|#)[^)]*\)'
    text = re.sub(rf'!\[[^]]*\]{beside}\n+(?:\*[^*]+\*\n+)?', '', text)     # a picture and the words below it
    return re.sub(rf'\[([^]]*)\]{beside}', r'\1', text)


# No addresses: settings.ini names for nbdev where the repository would be, and nothing is there.
setup(
    name=cfg['repo'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=description(),
    long_description_content_type='text/markdown',
    keywords=cfg['keywords'].replace(' ', ','),
    author=cfg['author'],
    license={'apache2': 'Apache-2.0'}[cfg['license']],
    license_files=['LICENSE'],
    classifiers=classifiers,
    packages=find_packages(include=[cfg['lib_name'], cfg['lib_name'] + '.*']),
    package_data={cfg['lib_name']: ['assets/*']},
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    zip_safe=False,
)
