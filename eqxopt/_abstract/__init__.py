"""The classes to subclass, one for each kind of rule."""
